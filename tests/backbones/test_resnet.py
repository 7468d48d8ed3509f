import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.backbone.resnet import build_resnet_backbone

from pentamask.backbones.config import add_backbone_config
from pentamask.backbones.resnet import DeformBottleneckBlock, build_deformable_resnet


def config(**resnets):
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    for key, value in resnets.items():
        cfg.MODEL.RESNETS[key] = value
    return cfg


def deformable_blocks(model):
    return [name for name, m in model.named_modules() if isinstance(m, DeformBottleneckBlock)]


def test_every_third_block():
    model = build_deformable_resnet(
        config(DEFORM_ON_PER_STAGE=[False, True, True, True], DEFORM_MODULATED=True, DEFORM_INTERVAL=3), ShapeSpec(3)
    )
    assert deformable_blocks(model) == ["res3.0", "res3.3", "res4.0", "res4.3", "res5.0"]


@pytest.mark.parametrize("modulated", [True, False])
def test_zero_offsets_are_the_plain_convolution(modulated):
    """Offsets start at zero; the modulation sigmoid(0) halves the convolution, which its norm can undo."""
    cfg = config(DEFORM_ON_PER_STAGE=[False, False, True, True], DEFORM_MODULATED=modulated, NORM="BN")
    deformable = build_deformable_resnet(cfg, ShapeSpec(channels=3))
    plain_cfg = cfg.clone()
    plain_cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * 4
    plain = build_resnet_backbone(plain_cfg, ShapeSpec(channels=3))
    plain.load_state_dict({k: v for k, v in deformable.state_dict().items() if "offset" not in k})
    if modulated:
        for module in deformable.modules():
            if isinstance(module, DeformBottleneckBlock):
                module.conv2.weight.data *= 2
    x = torch.randn(1, 3, 64, 64)
    expected, actual = plain.eval()(x), deformable.eval()(x)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-4)


def test_offsets_learn():
    cfg = config(DEFORM_ON_PER_STAGE=[False, False, False, True], DEFORM_MODULATED=True)
    model = build_deformable_resnet(cfg, ShapeSpec(channels=3))
    model(torch.randn(1, 3, 64, 64))["res5"].sum().backward()
    assert model.res5[0].conv2_offset.weight.grad.abs().sum() > 0


def test_frozen_stages_stay_frozen():
    cfg = config(DEFORM_ON_PER_STAGE=[False, True, False, False], DEFORM_MODULATED=True, NORM="BN")
    cfg.MODEL.BACKBONE.FREEZE_AT = 3
    model = build_deformable_resnet(cfg, ShapeSpec(channels=3))
    assert not any(p.requires_grad for p in model.res3.parameters())
    assert isinstance(model.res3[0].conv2.norm, FrozenBatchNorm2d)
    assert all(p.requires_grad for p in model.res4.parameters())


def test_plain_blocks_are_refused():
    cfg = config(DEFORM_ON_PER_STAGE=[False, False, False, True], DEPTH=18, RES2_OUT_CHANNELS=64)
    with pytest.raises(ValueError, match=r"DEFORM_ON_PER_STAGE.*DEPTH 18"):
        build_deformable_resnet(cfg, ShapeSpec(channels=3))
