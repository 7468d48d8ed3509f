import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from pentamask.backbones.config import add_backbone_config


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = -1
    node = cfg.MODEL.SWIN
    node.EMBED_DIM, node.DEPTHS, node.NUM_HEADS, node.DROP_PATH_RATE = 8, [1, 1, 2, 1], [1, 2, 2, 2], 0.4
    return cfg


def test_any_size_is_accepted_in_training(cfg):
    backbone = build_backbone(cfg, ShapeSpec(channels=3)).train()
    assert backbone.size_divisibility == 0
    outputs = backbone(torch.randn(1, 3, 50, 70))
    assert [tuple(x.shape) for x in outputs.values()] == [(1, 16, 7, 9), (1, 32, 4, 5), (1, 64, 2, 3)]
    assert [spec.stride for name, spec in backbone.output_shape().items()] == [8, 16, 32]


def test_stochastic_depth_grows(cfg):
    backbone = build_backbone(cfg, ShapeSpec(channels=3))
    rates = [block.drop_path.p for layer in backbone.layers for block in layer.blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.arange(5) * 0.1)


def test_stages_can_be_frozen(cfg):
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    frozen = {
        n.split(".")[0] for n, p in build_backbone(cfg, ShapeSpec(channels=3)).named_parameters() if not p.requires_grad
    }
    assert frozen == {"patch_embed", "layers"}


def test_unknown_stage_is_named(cfg):
    cfg.MODEL.SWIN.OUT_FEATURES = ["res3"]
    with pytest.raises(ValueError, match="MODEL.SWIN.OUT_FEATURES names res3; choose from p0"):
        build_backbone(cfg, ShapeSpec(channels=3))
