"""Every released model: parameters, state-dict entries, and a file as the authors save it."""

import re

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from pentamask import model_zoo

# config: (parameters in millions, state-dict entries, prior boxes at a location, last iteration)
MODELS = {
    "yolact_base": (50.16, 660, 3, 800000),
    "yolact_resnet50": (31.16, 354, 3, 800000),
    "yolact_darknet53": (47.78, 348, 3, 800000),
    "yolact_im400": (50.16, 660, 3, 800000),
    "yolact_im700": (50.16, 660, 3, 800000),
    "yolact_plus_resnet50": (33.77, 405, 9, 800000),
    "yolact_plus_base": (52.57, 705, 9, 800000),
    "yolact_resnet50_pascal": (30.73, 354, 3, 120000),
}


def build(name, device="meta"):
    cfg = model_zoo.get_config(f"YOLACT/{name}.yaml")
    cfg.MODEL.DEVICE = device
    with torch.device(device):
        return cfg, build_model(cfg)


@pytest.mark.parametrize("name", MODELS)
def test_network_of_the_recipe(name):
    parameters, entries, anchors, max_iter = MODELS[name]
    cfg, model = build(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == parameters
    assert len(model.state_dict()) == entries
    assert model.prediction_head.bbox_layer.weight.shape[0] == 4 * anchors
    assert max_iter == cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize(("side", "name"), [(400, "yolact_im400"), (700, "yolact_im700")])
def test_anchor_scales_grow_with_the_image(side, name):
    node = model_zoo.get_config(f"YOLACT/{name}.yaml").MODEL.YOLACT
    assert side == node.IMAGE_SIZE
    assert [[int(scale / 550 * side)] for scale in (24, 48, 96, 192, 384)] == node.ANCHOR_SCALES


@pytest.mark.parametrize("name", ["yolact_plus_resnet50", "yolact_plus_base"])
def test_deformable_blocks_of_the_plus_models(name):
    _, model = build(name)
    stages = model.backbone.bottom_up.stages
    deformable = [[i for i, block in enumerate(stage) if hasattr(block, "conv2_offset")] for stage in stages]
    if name == "yolact_plus_base":
        assert deformable == [[], [0, 3], [0, 3, 6, 9, 12, 15, 18, 21], [0]]
    else:
        assert [len(blocks) for blocks in deformable] == [0, 4, 6, 3]


def test_learning_rate_and_decay_are_the_authors():
    cfg = model_zoo.get_config("YOLACT/yolact_base.yaml")
    assert pytest.approx(1e-4) == cfg.SOLVER.BASE_LR * cfg.SOLVER.WARMUP_FACTOR
    assert cfg.SOLVER.WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY_NORM == 5e-4 and cfg.SOLVER.MOMENTUM == 0.9


def authors_name(name):
    """The inverse of the renaming, written down on its own."""
    for ours, theirs in [
        ("backbone.bottom_up.preconv.", "backbone._preconv."),
        ("backbone.bottom_up.stem.conv1.norm.", "backbone.bn1."),
        ("backbone.bottom_up.stem.conv1.", "backbone.conv1."),
        ("backbone.bottom_up.layers.", "backbone.layers."),
        *((f"backbone.bottom_up.res{i + 2}.", f"backbone.layers.{i}.") for i in range(4)),
        ("shortcut.norm.", "downsample.1."),
        ("shortcut.", "downsample.0."),
        *((f"conv{i}.norm.", f"bn{i}.") for i in (1, 2, 3)),
        ("conv2_offset.", "conv2.conv_offset_mask."),
        *((f"backbone.{layer}", f"fpn.{layer}") for layer in ("lat_", "pred_", "downsample_")),
        ("prediction_head.", "prediction_layers.0."),
        ("mask_iou_net.", "maskiou_net.maskiou_net."),
    ]:
        name = name.replace(ours, theirs)
    return name


@pytest.mark.parametrize("name", ["yolact_darknet53", "yolact_plus_resnet50"])
def test_the_authors_file_loads(name, tmp_path):
    _, model = build(name, "cpu")
    expected = {k: torch.rand(v.shape) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    file = {authors_name(key): value for key, value in expected.items() if not key.endswith("num_batches_tracked")}
    file["fpn.downsample_layers.2.weight"] = torch.zeros(256, 256, 3, 3)
    file["backbone.layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    torch.save(file, tmp_path / "authors.pth", _use_new_zipfile_serialization=False)
    DetectionCheckpointer(model).load(str(tmp_path / "authors.pth"))
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("name", ["yolact_resnet50", "yolact_darknet53"])
def test_an_imagenet_file_fills_the_backbone(name, tmp_path):
    _, model = build(name, "cpu")
    expected = {k: torch.rand(v.shape) for k, v in model.state_dict().items() if k.startswith("backbone.bottom_up.")}
    file = {authors_name(key).removeprefix("backbone."): value for key, value in expected.items()}
    if name == "yolact_resnet50":  # torchvision counts its stages from 1
        file = {re.sub(r"^layers\.(\d)", lambda m: f"layer{int(m[1]) + 1}", k): v for k, v in file.items()}
    torch.save({**file, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / f"{name}.pth")
    DetectionCheckpointer(model).load(str(tmp_path / f"{name}.pth"))
    for key, value in expected.items():
        assert torch.equal(model.state_dict()[key], value) or key.endswith("num_batches_tracked"), key


def test_another_number_of_classes_loads_the_rest(tiny_cfg, tmp_path, caplog):
    source = build_model(tiny_cfg)
    torch.save({authors_name(k): v for k, v in source.state_dict().items()}, tmp_path / "three.pth")
    tiny_cfg.MODEL.YOLACT.NUM_CLASSES = 5
    model = build_model(tiny_cfg)
    DetectionCheckpointer(model).load(str(tmp_path / "three.pth"))
    assert torch.equal(model.proto_net[0].weight, source.proto_net[0].weight)
    assert "prediction_head.conf_layer.weight is not loaded" in caplog.text


def test_the_file_of_another_model_is_refused(tiny_cfg, tmp_path):
    torch.save({"proposal_generator.fcos_head.cls_logits.weight": torch.zeros(1)}, tmp_path / "fcos.pth")
    with pytest.raises(ValueError, match="does not belong to the YOLACT"):
        DetectionCheckpointer(build_model(tiny_cfg)).load(str(tmp_path / "fcos.pth"))
