"""convert_weights: every family's file ends as a clean one with the same weights, or in one readable error."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from authors_files import write_authors_file
from checkpoint_samples import Command
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn

from pentamask import model_zoo
from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.engine.checks import BadInput
from pentamask.tools import convert_weights, train_net

# Config, the model and its authors as the report names them, and what their file has that nobody needs.
FAMILIES = {
    "shapes/BlendMask_R_50_thin": ("BlendMask of aim-uofa/AdelaiDet", "pixel_mean, pixel_std"),
    "shapes/CenterMask_Lite_R_50_thin": ("CenterMask of youngwanLEE/centermask2", "pixel_mean, pixel_std"),
    "shapes/YOLACT_R_50_thin": (
        "YOLACT of dbolya/yolact",
        "backbone.layer1.0.conv1.weight, fpn.downsample_layers.2.weight",
    ),
    "shapes/MaskRCNN_R_50_thin": ("MaskRCNN of facebookresearch/detectron2", None),
    "shapes/PanopticSegFormer_R_50_thin": (
        "PanopticSegFormer of zhiqi-li/Panoptic-SegFormer",
        "bbox_head.cls_branches2.0.weight",
    ),
}
BLENDMASK, YOLACT = "shapes/BlendMask_R_50_thin", "shapes/YOLACT_R_50_thin"


def build(name: str, *options: object, seed: int = 0) -> nn.Module:
    cfg = model_zoo.get_config(f"{name}.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    torch.manual_seed(seed)
    return build_model(cfg)


def run(*words: object) -> None:
    convert_weights.main(convert_weights.get_parser().parse_args([str(word) for word in words]))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", FAMILIES)
def test_converts_and_verifies(name: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = build(name)
    source, target = write_authors_file(model, tmp_path), tmp_path / f"clean.{suffix}"
    run(source, target, "--model", name, "--verify")
    report = capsys.readouterr().out
    origin, left_out = FAMILIES[name]
    entries = len(model.state_dict())
    assert f"{source}: {origin};" in report and f"{entries} of them used" in report
    assert f"left out ({left_out})" in report if left_out else "none left out" in report
    assert f"{target}: {entries} entries" in report
    instances = int(report.split(" instances)")[0].rsplit(" ", 1)[1])
    assert "verified: equal weights, equal outputs (instances" in report and instances > 0
    loaded = build(name, seed=1)
    PentamaskCheckpointer(loaded).load(str(target))
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_the_new_file_is_a_plain_detectron2_one(tmp_path: Path) -> None:
    model = build(YOLACT)
    target = tmp_path / "clean.pth"
    run(write_authors_file(model, tmp_path), target, "--model", f"{YOLACT}.yaml")
    content = torch.load(target, weights_only=True)
    assert list(content) == ["model"] and list(content["model"]) == list(model.state_dict())
    loaded = build(YOLACT, seed=1)
    DetectionCheckpointer(loaded).load(str(target))
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    run(target, tmp_path / "again.safetensors", "--model", YOLACT, "--verify")  # our own files are recognised, too


def test_train_net_takes_the_safetensors_file(tiny: list[str], tmp_path: Path) -> None:
    target = tmp_path / "clean.safetensors"
    norm = ["MODEL.FCOS.NORM", "GN"]  # as in `tiny`
    run(write_authors_file(build(BLENDMASK, *norm), tmp_path), target, "--model", BLENDMASK, "--opts", *norm)
    words = ["--config-file", f"{BLENDMASK}.yaml", "--eval-only", *tiny, "MODEL.WEIGHTS", str(target)]
    results = train_net.main(train_net.default_argument_parser().parse_args(words))
    assert set(results) == {"bbox", "segm"}
    assert f"Loading from {target}" in (tmp_path / "out" / "log.txt").read_text()


def test_options_fit_the_model_to_a_file_with_other_classes(tmp_path: Path) -> None:
    options = ["MODEL.YOLACT.NUM_CLASSES", 2]
    source, target = write_authors_file(build(YOLACT, *options), tmp_path), tmp_path / "clean.pth"
    with pytest.raises(
        BadInput, match=r"file of YOLACT does not fit --model shapes.*released.pth: .*prediction_head.conf_layer"
    ):
        run(source, target, "--model", YOLACT)
    assert not target.exists()
    run(source, target, "--model", YOLACT, "--opts", *options)
    assert target.exists()


def test_verify_finds_a_difference(tmp_path: Path) -> None:
    model = build(YOLACT)
    source, other = write_authors_file(model, tmp_path), tmp_path / "other.pth"
    weights = model.state_dict()
    weights["proto_net.0.weight"] = weights["proto_net.0.weight"] + 1e-3
    convert_weights.write_weights(weights, str(other))
    with pytest.raises(BadInput, match=r"other.pth does not give what .*released.pth gives: the weights"):
        convert_weights.verify(convert_weights._load_config(YOLACT, []), source, str(other))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_file_of_another_model_is_refused_with_both_names(name: str, tmp_path: Path) -> None:
    other = BLENDMASK if name == YOLACT else YOLACT
    source = write_authors_file(build(name), tmp_path)
    family = FAMILIES[name][0].split(" of ")[0]
    expected = rf"is a file of {family} .*, but --model {other} is {FAMILIES[other][0].split(' of ')[0]}"
    with pytest.raises(BadInput, match=expected):
        run(source, tmp_path / "clean.pth", "--model", other)
    assert not (tmp_path / "clean.pth").exists()


def test_a_backbone_alone_and_strangers_are_refused(tmp_path: Path) -> None:
    for keys in (["conv1.weight", "layer1.0.conv1.weight", "fc.bias"], ["anything"]):
        torch.save({key: torch.zeros(1) for key in keys}, tmp_path / "other.pth")
        with pytest.raises(BadInput, match=rf"other.pth: no file of OneStageDetector .*; it has {keys[0]}"):
            run(tmp_path / "other.pth", tmp_path / "clean.pth", "--model", BLENDMASK)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    source = write_authors_file(build(BLENDMASK), tmp_path)
    for words, message in (
        ([tmp_path / "no.pth", tmp_path / "clean.pth"], r"no.pth: there is no such file"),
        ([source, source], r"released.pth: is the input itself"),
        ([source, tmp_path / "clean.bin"], r"clean.bin: the new file's name must end in .pth or .safetensors"),
        ([source, tmp_path / "no" / "clean.safetensors"], r"No such file or directory: .*clean.safetensors"),
        ([source, tmp_path / "clean.pth", "--model", "BlendMask/R_51"], r"BlendMask/R_51.yaml: no such file"),
        ([source, tmp_path / "clean.pth", "--model", "BlendMask/R_50_1x.py"], r"name a YAML config"),
    ):
        with pytest.raises(BadInput, match=message):
            run(*words, *([] if "--model" in words else ["--model", BLENDMASK]))


def test_safetensors_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_authors_file(build(BLENDMASK), tmp_path)
    run(source, tmp_path / "clean.safetensors", "--model", BLENDMASK)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for words in ([source, tmp_path / "b.safetensors"], [tmp_path / "clean.safetensors", tmp_path / "b.pth"]):
        with pytest.raises(BadInput, match="pip install safetensors"):
            run(*words, "--model", BLENDMASK)


@pytest.mark.parametrize("name", ["hostile.pth", "hostile.pkl"])
def test_as_a_user_starts_it_a_hostile_file_runs_nothing_and_ends_in_one_line(name: str, tmp_path: Path) -> None:
    marker, source = tmp_path / "executed", tmp_path / name
    content = {"model": Command(f"touch {marker}"), "__author__": "me"}
    if name.endswith(".pkl"):
        source.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, source)
    command = [sys.executable, "-m", "pentamask.tools.convert_weights", source, tmp_path / "clean.pth"]
    done = subprocess.run([*command, "--model", BLENDMASK], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and not marker.exists()
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line.startswith(f"convert_weights: error: {source}") and "posix.system" in last_line
