"""Every model refuses the file of every other; a backbone's file loads for training only, and says so in one line."""

import copy
import itertools
import logging
import pickle
import re
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn

from pentamask import model_zoo
from pentamask.checkpoint.key_map import accept_partial_weights
from pentamask.checkpoint.loader import CheckpointError, PentamaskCheckpointer

CONFIGS = {
    "BlendMask": ("shapes/BlendMask_R_50_thin.yaml", []),
    "CenterMask": ("shapes/CenterMask_Lite_R_50_thin.yaml", []),
    "PanopticCenterMask": ("shapes/CenterMask_Lite_R_50_thin.yaml", ["MODEL.META_ARCHITECTURE", "PanopticCenterMask"]),
    "MaskRCNN": ("shapes/MaskRCNN_R_50_thin.yaml", []),
    "OneStageDetector": ("shapes/BlendMask_R_50_thin.yaml", ["MODEL.META_ARCHITECTURE", "OneStageDetector"]),
    "PanopticSegFormer": ("shapes/PanopticSegFormer_R_50_thin.yaml", []),
    "YOLACT": ("shapes/YOLACT_R_50_thin.yaml", []),
}
PAIRS = list(itertools.permutations(CONFIGS, 2))


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    built = {}
    for name, (config, overrides) in CONFIGS.items():
        cfg = model_zoo.get_config(config)
        cfg.merge_from_list([*overrides, "MODEL.DEVICE", "cpu"])
        built[name] = build_model(cfg)
        assert type(built[name]).__name__ == name
    return built


@pytest.fixture(scope="module")
def files(models: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    for name, model in models.items():
        torch.save({"model": model.state_dict()}, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in models}


@pytest.mark.parametrize("checkpointer", [PentamaskCheckpointer, DetectionCheckpointer])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_pairs(models: dict, files: dict, training: bool, checkpointer: type) -> None:
    for ours, theirs in PAIRS:
        before = copy.deepcopy(models[ours].state_dict())
        with pytest.raises(
            ValueError, match="expects .* entries, .* were found. Missing.*In the file but not"
        ) as error:
            checkpointer(models[ours].train(training)).load(files[theirs])
        torch.testing.assert_close(models[ours].state_dict(), before, rtol=0, atol=0)
        assert training or "evaluation mode needs every entry" in str(error.value)
    for name in models:
        checkpointer(models[name].train(training)).load(files[name])


def imagenet_files(model: nn.Module) -> dict[str, dict]:
    """The body of a model with a Detectron2 ResNet, as torchvision, Detectron2 and Caffe2 (MSRA) would release it."""
    body = {
        key.split("bottom_up.")[1]: value.clone() for key, value in model.state_dict().items() if "bottom_up." in key
    }
    detectron2 = {key: value.numpy() for key, value in body.items() if not key.endswith("num_batches_tracked")}
    detectron2["stem.fc.weight"] = torch.ones(2, 2).numpy()
    torchvision, caffe2 = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}, {}
    for key, value in body.items():
        name = re.sub(r"^stem\.conv1\.norm", "bn1", key).replace("stem.", "")
        name = re.sub(r"conv(\d)\.norm", r"bn\1", name).replace("shortcut.norm", "downsample.1")
        name = re.sub(r"^res(\d)", lambda m: f"layer{int(m[1]) - 1}", name.replace("shortcut", "downsample.0"))
        torchvision[name] = value
        if "running" not in key and "num_batches" not in key:
            caffe2[caffe2_name(key)] = value.numpy()
    caffe2["fc1000_w"], caffe2["conv1_w_momentum"] = torch.ones(2, 2).numpy(), torch.ones(1).numpy()
    return {
        "torchvision.pth": torchvision,
        "R-50.pkl": {"model": detectron2, "__author__": "torchvision", "matching_heuristics": True},
        "msra.pkl": caffe2,
    }


def caffe2_name(key: str) -> str:
    """As res2_0_branch2a_bn_s for res2.0.conv1.norm.weight."""
    key = key.replace("stem.conv1.norm.", "res_conv1_bn_").replace("stem.conv1.", "conv1_")
    key = re.sub(r"^(res\d\.\d+)\.shortcut\.", r"\1.branch1.", key)
    key = re.sub(r"^(res\d\.\d+)\.conv(\d)\.", lambda m: f"{m[1]}.branch2{'abc'[int(m[2]) - 1]}.", key)
    key = key.replace(".norm.weight", "_bn_s").replace(".norm.bias", "_bn_b").replace("bn_weight", "bn_s")
    return key.replace("bn_bias", "bn_b").replace(".weight", "_w").replace("_weight", "_w").replace(".", "_")


@pytest.mark.parametrize("kind", ["torchvision.pth", "R-50.pkl", "msra.pkl"])
def test_imagenet_files(models: dict, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pentamask")
    content, path = imagenet_files(models["YOLACT"])[kind], tmp_path / kind
    path.write_bytes(pickle.dumps(content)) if kind.endswith("pkl") else torch.save(content, path)
    for name, model in models.items():
        heads = {k: v.clone() for k, v in model.state_dict().items() if "bottom_up" not in k and "backbone" not in k}
        caplog.clear()
        PentamaskCheckpointer(model.train()).load(str(path))
        (line,) = [r.getMessage() for r in caplog.records if "backbone only" in r.getMessage()]
        assert re.search(r"fills \d{3} entries of .*; \d{2,} start anew, in .* \(of the backbone: ", line)
        assert "stem" not in line, (name, line)
        assert not [r for r in caplog.records if r.levelname == "WARNING"], name
        torch.testing.assert_close({k: model.state_dict()[k] for k in heads}, heads, rtol=0, atol=0)
        with pytest.raises(CheckpointError, match="evaluation mode needs every entry"):
            PentamaskCheckpointer(model.eval()).load(str(path))


def test_partial_weights_load_where_asked_for(models: dict, files: dict) -> None:
    theirs = models["YOLACT"].state_dict()
    ours = models["BlendMask"].eval()
    before = copy.deepcopy(ours.state_dict())
    name = next(key for key in before if key in theirs and key.endswith("res2.0.conv1.weight"))
    changed = {"model": {**theirs, name: theirs[name] + 1}}
    path = files["YOLACT"] + ".changed"
    torch.save(changed, path)
    PentamaskCheckpointer(ours, partial=True).load(path)
    torch.testing.assert_close(ours.state_dict()[name], theirs[name] + 1, rtol=0, atol=0)
    with accept_partial_weights():  # for Detectron2's checkpointer, too
        DetectionCheckpointer(ours).load(files["YOLACT"])
    torch.testing.assert_close(ours.state_dict()[name], theirs[name], rtol=0, atol=0)
    ours.load_state_dict(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("checkpointer", [PentamaskCheckpointer, DetectionCheckpointer])
def test_weights_that_are_not_finite_are_named(models: dict, tmp_path: Path, checkpointer: type, value: float) -> None:
    weights = {name: tensor.clone() for name, tensor in models["BlendMask"].state_dict().items()}
    weights["basis_module.refine.0.0.weight"][1] = value
    torch.save({"model": weights}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"NaN or infinite: basis_module\.refine\.0\.0\.weight\."):
        checkpointer(models["BlendMask"].train()).load(str(tmp_path / "m.pth"))


def test_other_class_counts_are_for_training_only(files: dict) -> None:
    cfg = model_zoo.get_config(CONFIGS["BlendMask"][0])
    cfg.merge_from_list(["MODEL.FCOS.NUM_CLASSES", 7, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items() if "cls_logits" in name}
    PentamaskCheckpointer(model).load(files["BlendMask"])
    torch.testing.assert_close({name: model.state_dict()[name] for name in before}, before, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"another shape: .*cls_logits.*number of classes"):
        PentamaskCheckpointer(model.eval()).load(files["BlendMask"])


def test_models_without_key_rules_are_filled_completely_for_evaluation(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 3)}, tmp_path / "m.pth")
    PentamaskCheckpointer(nn.Linear(3, 2)).load(str(tmp_path / "m.pth"))
    with pytest.raises(CheckpointError, match="missing: bias.*MODEL.WEIGHTS_PARTIAL True"):
        PentamaskCheckpointer(nn.Linear(3, 2).eval()).load(str(tmp_path / "m.pth"))
