"""`pentamask:FILE` through Detectron2's own checkpointer: files that it would unpickle, or could not read."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from authors_files import write_authors_file
from checkpoint_samples import ARRAYS, WEIGHTS, Command
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from safetensors.torch import save_file
from torch import nn

from pentamask import model_zoo
from pentamask.checkpoint.loader import PentamaskCheckpointer


class Backbone(nn.Module):
    """One convolution under the names of a Detectron2 ResNet stem."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.ModuleDict({"conv1": nn.Conv2d(3, 2, 1, bias=False)})})


def write(path: Path) -> None:
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "Detectron2 Model Zoo"}))
    elif path.suffix == ".safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save({"meta": {"epoch": 24}, "state_dict": WEIGHTS}, path)


@pytest.mark.parametrize("checkpointer", [DetectionCheckpointer, PentamaskCheckpointer])
@pytest.mark.parametrize("name", ["zoo.pkl", "state_dict.pth", "model.safetensors"])
def test_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointer: type, name: str) -> None:
    write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (f"pentamask:{name}", f"pentamask:{tmp_path / name}"):
        model = nn.Linear(3, 2)
        checkpointer(model).load(path)
        torch.testing.assert_close(dict(model.state_dict()), WEIGHTS, rtol=0, atol=0)


@pytest.mark.parametrize("content", [{"conv1_w": 0}, {"model": {"stem.conv1.weight": 0}, "__author__": "me"}])
def test_names_are_matched_as_detectron2_does(tmp_path: Path, content: dict) -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    weights = content.get("model", content)
    weights.update(dict.fromkeys(weights, kernel))
    (tmp_path / "r50.pkl").write_bytes(pickle.dumps(content))
    model = Backbone()
    DetectionCheckpointer(model).load(f"pentamask:{tmp_path / 'r50.pkl'}?matching_heuristics=True")
    np.testing.assert_array_equal(model.backbone["stem"]["conv1"].weight.detach().numpy(), kernel)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    for seconds, value in ((1, 1.0), (2, 5.0)):
        torch.save({name: torch.full_like(weight, value) for name, weight in WEIGHTS.items()}, path)
        os.utime(path, (seconds, seconds))
        model = nn.Linear(3, 2)
        DetectionCheckpointer(model).load(f"pentamask:{path}")
        assert (model.weight == value).all()


def test_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": Command(f"touch {marker}"), "__author__": "me"}))
    with pytest.raises(ValueError, match=r"m\.pkl.*posix\.system"):
        DetectionCheckpointer(nn.Linear(3, 2)).load(f"pentamask:{tmp_path / 'm.pkl'}")
    assert not marker.exists()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="MODEL.WEIGHTS"):
        PentamaskCheckpointer(nn.Linear(3, 2)).load(f"pentamask:{tmp_path / 'no.pth'}")


def test_released_panoptic_segformer_in_plain_detectron2(tmp_path: Path) -> None:
    """The container that Detectron2 refuses without the prefix."""
    cfg = model_zoo.get_config("shapes/PanopticSegFormer_R_50_thin.yaml")
    cfg.MODEL.DEVICE = "cpu"
    source, model = build_model(cfg), build_model(cfg)
    DetectionCheckpointer(model).load(f"pentamask:{write_authors_file(source, tmp_path)}")
    torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)


def test_other_paths_stay_detectron2s_and_copies_go(tmp_path: Path) -> None:
    write(tmp_path / "zoo.pkl")
    code = (
        "import sys, detectron2.checkpoint; from detectron2.utils.file_io import PathManager as P\n"
        "before = dict(P._path_handlers); import pentamask\n"
        "assert {k: v for k, v in P._path_handlers.items() if k != 'pentamask:'} == before\n"
        "print(P.get_local_path('pentamask:' + sys.argv[1]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "zoo.pkl"], capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("zoo.pkl.pth") and not Path(run.stdout.strip()).exists()
