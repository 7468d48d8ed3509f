import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone

import pentamask  # noqa: F401
from pentamask.backbones.config import add_backbone_config
from pentamask.backbones.mobilenetv2 import InvertedResidual, MobileNetV2, build_mobilenetv2


def test_number_of_parameters():
    assert round(sum(p.numel() for p in MobileNetV2(3).parameters()) / 1e6, 2) == 1.78


def test_shapes_of_the_features():
    model = MobileNetV2(3).eval()
    outputs = model(torch.randn(1, 3, 64, 96))
    channels = {name: shape.channels for name, shape in model.output_shape().items()}
    assert channels == {"res2": 24, "res3": 32, "res4": 96, "res5": 320}
    for name, shape in model.output_shape().items():
        assert outputs[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_names_of_the_parameters():
    """As in the released file; the first block has no expansion."""
    state_dict = MobileNetV2(3).state_dict()
    assert state_dict["features.0.0.weight"].shape == (32, 3, 3, 3)
    assert state_dict["features.1.conv.0.weight"].shape == (32, 1, 3, 3)
    assert state_dict["features.1.conv.3.weight"].shape == (16, 32, 1, 1)
    assert state_dict["features.17.conv.3.weight"].shape == (960, 1, 3, 3)
    assert state_dict["features.17.conv.7.running_mean"].shape == (320,)


def test_residual_where_the_shapes_agree():
    x = torch.randn(1, 8, 6, 6)
    block = InvertedResidual(8, 8, 1, 6).eval()
    torch.testing.assert_close(block(x), block.conv(x) + x)
    assert not InvertedResidual(8, 8, 2, 6).residual and not InvertedResidual(8, 12, 1, 6).residual


def test_frozen_layers():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    model = build_mobilenetv2(cfg, ShapeSpec(channels=3))
    trained = {int(name.split(".")[1]) for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(range(2, 18))
    assert isinstance(model.features[0][1], FrozenBatchNorm2d)


def test_pyramid():
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_mobilenetv2_fpn_p6p7_backbone"
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = ["res3", "res4", "res5"], 16
    outputs = build_backbone(cfg, ShapeSpec(channels=3)).eval()(torch.randn(1, 3, 64, 96))
    assert {name: tuple(x.shape[1:]) for name, x in outputs.items()} == {
        "p3": (16, 8, 12),
        "p4": (16, 4, 6),
        "p5": (16, 2, 3),
        "p6": (16, 1, 2),
        "p7": (16, 1, 1),
    }
