"""PentamaskCheckpointer: every kind of file ends as the same weights in the model, or in one readable error."""

import argparse
import pickle
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_samples import ARRAYS, WEIGHTS, Command
from detectron2.checkpoint import DetectionCheckpointer
from safetensors.torch import save_file
from torch import nn

from pentamask.checkpoint.key_map import KeyRules, register_key_rules
from pentamask.checkpoint.loader import CheckpointError, PentamaskCheckpointer, load_completely


def write_pickle(data: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(data))


def write_safetensors(data: dict[str, torch.Tensor], path: Path) -> None:
    save_file(data, path)


@pytest.mark.parametrize(
    ("name", "content", "write"),
    [
        ("bare.pth", OrderedDict(WEIGHTS), torch.save),
        ("model.pth", {"model": dict(WEIGHTS), "iteration": 3}, torch.save),
        ("state_dict.pth", {"state_dict": dict(WEIGHTS), "meta": {"epoch": 24}}, torch.save),
        ("parallel.pth", {"model": {f"module.{k}": v for k, v in WEIGHTS.items()}}, torch.save),
        ("zoo.pkl", {"model": dict(ARRAYS), "__author__": "Detectron2 Model Zoo"}, write_pickle),
        ("model.safetensors", dict(WEIGHTS), write_safetensors),
    ],
)
def test_loads(tmp_path: Path, name: str, content: dict, write: Callable) -> None:
    write(content, tmp_path / name)
    model = nn.Linear(3, 2)
    PentamaskCheckpointer(model).load(str(tmp_path / name))
    torch.testing.assert_close(dict(model.state_dict()), WEIGHTS, rtol=0, atol=0)


def test_returns_what_is_not_weights(tmp_path: Path) -> None:
    torch.save({"model": dict(WEIGHTS), "iteration": 3}, tmp_path / "model.pth")
    assert PentamaskCheckpointer(nn.Linear(3, 2)).load(str(tmp_path / "model.pth")) == {"iteration": 3}


def test_empty_path_loads_nothing() -> None:
    assert PentamaskCheckpointer(nn.Linear(3, 2)).load("") == {}


class Backbone(nn.Module):
    """One convolution under the names of a Detectron2 ResNet stem."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.ModuleDict({"conv1": nn.Conv2d(3, 2, 1, bias=False)})})


@pytest.mark.parametrize("wrap", [lambda blobs: blobs, lambda blobs: {"blobs": blobs, "cfg": "MODEL: {}"}])
def test_caffe2_names(tmp_path: Path, wrap: Callable[[dict], dict]) -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    write_pickle(wrap({"conv1_w": kernel, "conv1_w_momentum": kernel}), tmp_path / "r50.pkl")
    model = Backbone()
    PentamaskCheckpointer(model).load(str(tmp_path / "r50.pkl"))
    np.testing.assert_array_equal(model.backbone["stem"]["conv1"].weight.detach().numpy(), kernel)


@pytest.mark.parametrize("name", ["stem.pth", "stem.pkl"])
@pytest.mark.parametrize("in_file", [True, False])
def test_matching_heuristics(tmp_path: Path, name: str, in_file: bool) -> None:
    kernel = torch.arange(6.0).reshape(2, 3, 1, 1)
    content = {"model": {"stem.conv1.weight": kernel.numpy() if name.endswith("pkl") else kernel}, "__author__": "me"}
    if in_file:
        content["matching_heuristics"] = True
    (write_pickle if name.endswith("pkl") else torch.save)(content, tmp_path / name)
    model = Backbone()
    PentamaskCheckpointer(model).load(f"{tmp_path / name}{'' if in_file else '?matching_heuristics=True'}")
    torch.testing.assert_close(model.backbone["stem"]["conv1"].weight.detach(), kernel, rtol=0, atol=0)


def test_resume_brings_back_optimizer_and_iteration(tmp_path: Path) -> None:
    def make() -> tuple[nn.Linear, torch.optim.Optimizer, PentamaskCheckpointer]:
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, PentamaskCheckpointer(model, str(tmp_path), optimizer=optimizer)

    model, optimizer, checkpointer = make()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpointer.save("model_0000009", iteration=9)
    resumed, resumed_optimizer, resumed_checkpointer = make()
    assert resumed_checkpointer.resume_or_load("elsewhere.pth", resume=True)["iteration"] == 9
    torch.testing.assert_close(resumed.state_dict(), model.state_dict(), rtol=0, atol=0)
    momentum = [state["momentum_buffer"] for state in resumed_optimizer.state.values()]
    assert len(momentum) == 2 and all((m == 1).all() for m in momentum)


def test_resume_passes_over_weights_that_are_not_finite(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(3, 2)
    checkpointer = PentamaskCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    nn.init.constant_(model.bias, float("nan"))
    checkpointer.save("model_0000002", iteration=2)
    assert checkpointer.resume_or_load("", resume=True) == {"iteration": 1}
    assert model.bias.isfinite().all()
    (line,) = [record.getMessage() for record in caplog.records if "Resuming" in record.getMessage()]
    assert "0000001.pth, because" in line and "0000002.pth: These weights of the checkpoint are NaN" in line


@pytest.mark.parametrize("path", ["missing.pth", "missing.pkl?matching_heuristics=True", "file:///nowhere/model.pth"])
def test_missing_file(path: str) -> None:
    with pytest.raises(FileNotFoundError, match="MODEL.WEIGHTS") as error:
        PentamaskCheckpointer(nn.Linear(3, 2)).load(path)
    assert repr(path) in str(error.value)


def test_file_of_a_script_is_refused_with_its_content(tmp_path: Path) -> None:
    path = str(tmp_path / "detr.pth")
    torch.save({"model": dict(WEIGHTS), "args": argparse.Namespace(lr=1)}, path)
    checkpointer = PentamaskCheckpointer(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="argparse.Namespace") as error:
        checkpointer.load(path)
    assert path in str(error.value)
    torch.save(WEIGHTS, path)
    checkpointer.load(path)  # a failed load does not spoil the next


@pytest.mark.parametrize("checkpointer", [PentamaskCheckpointer, DetectionCheckpointer])
@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_torch_file_runs_nothing(tmp_path: Path, checkpointer: type, zipped: bool) -> None:
    marker = tmp_path / "executed"
    torch.save({"model": Command(f"touch {marker}")}, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises((ValueError, pickle.UnpicklingError), match="posix.system"):
        checkpointer(nn.Linear(3, 2)).load(str(tmp_path / "m.pth"))
    assert not marker.exists()


def test_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    write_pickle({"model": Command(f"touch {marker}"), "__author__": "me"}, tmp_path / "m.pkl")
    with pytest.raises(ValueError, match=r"m\.pkl.*posix\.system"):
        PentamaskCheckpointer(nn.Linear(3, 2)).load(str(tmp_path / "m.pkl"))
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1", b"PK\x03\x04cut short"])
@pytest.mark.parametrize("name", ["m.pth", "m.pkl", "m.safetensors"])
def test_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        PentamaskCheckpointer(nn.Linear(3, 2)).load(str(tmp_path / name))


def test_file_of_another_model_is_named(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    register_key_rules(model, KeyRules("Toy"))
    torch.save({"other": torch.zeros(1)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"m\.pth: This checkpoint does not belong to the Toy"):
        PentamaskCheckpointer(model).load(str(tmp_path / "m.pth"))


@pytest.mark.parametrize(
    ("content", "report"),
    [
        ({"weight": torch.zeros(2, 3)}, "missing: bias"),
        ({**WEIGHTS, "scale": torch.zeros(1)}, "unused: scale"),
        ({**WEIGHTS, "bias": torch.zeros(3)}, r"missing: bias; of another shape: bias \(3,\) instead of \(2,\)"),
    ],
)
def test_load_completely_reports_what_does_not_fit(tmp_path: Path, content: dict, report: str) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=rf"m\.pth: The checkpoint does not fill the model: {report}\."):
        load_completely(nn.Linear(3, 2), str(tmp_path / "m.pth"))


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safetensors(WEIGHTS, tmp_path / "m.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(CheckpointError, match=r"m\.safetensors needs the package safetensors: pip install safetensors"):
        PentamaskCheckpointer(nn.Linear(3, 2)).load(str(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("name", ["m.pth", "m.pkl"])
def test_file_without_dictionary_is_named(tmp_path: Path, name: str) -> None:
    (write_pickle if name.endswith("pkl") else torch.save)([1, 2], tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} holds a list"):
        PentamaskCheckpointer(nn.Linear(3, 2)).load(str(tmp_path / name))


class _WantsQuery(BaseHTTPRequestHandler):
    """Serves `content` under "/a/model.pth?dl=1" and a page of text under the bare address, as Dropbox does."""

    content = b""

    def do_GET(self) -> None:
        body = self.content if self.path == "/a/model.pth?dl=1" else b"<html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_address_with_a_query_is_fetched_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    torch.save(WEIGHTS, tmp_path / "model.pth")
    monkeypatch.setattr(_WantsQuery, "content", (tmp_path / "model.pth").read_bytes())
    with ThreadingHTTPServer(("127.0.0.1", 0), _WantsQuery) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _ in range(2):  # downloaded, found in the cache
            model = nn.Linear(3, 2)
            PentamaskCheckpointer(model).load(f"http://127.0.0.1:{server.server_port}/a/model.pth?dl=1")
            torch.testing.assert_close(dict(model.state_dict()), WEIGHTS, rtol=0, atol=0)
        server.shutdown()


def test_address_that_nobody_answers() -> None:
    with pytest.raises(FileNotFoundError, match=r"MODEL\.WEIGHTS names 'http://127\.0\.0\.1:9/m\.pth\?dl=1'"):
        PentamaskCheckpointer(nn.Linear(3, 2)).load("http://127.0.0.1:9/m.pth?dl=1")
