import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from pentamask.backbones.config import add_backbone_config
from pentamask.backbones.pvt import VARIANTS, Attention


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_pvt_v2_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = -1
    cfg.MODEL.PVT.VARIANT = "b0"
    return cfg


@pytest.mark.parametrize("variant, parameters", [("b0", 3409760), ("b2", 24849856)])
def test_parameters_are_the_papers(cfg, variant, parameters):
    cfg.MODEL.PVT.VARIANT = variant
    backbone = build_backbone(cfg, ShapeSpec(channels=3))
    assert sum(p.numel() for p in backbone.parameters()) == parameters


@torch.no_grad()
def test_any_size_is_accepted(cfg):
    backbone = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    outputs = backbone(torch.randn(2, 3, 67, 90))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        "stage2": (2, 64, 9, 12),
        "stage3": (2, 160, 5, 6),
        "stage4": (2, 256, 3, 3),
    }
    for name, spec in backbone.output_shape().items():
        assert outputs[name].shape[1] == spec.channels


def test_attention_reduces_keys_and_values():
    """Against softmax(q k^T / sqrt(d)) v written out; the last row and column have no 2 x 2 cell."""
    torch.manual_seed(0)
    attention, size = Attention(8, 2, reduction=2).double(), (5, 7)
    x = torch.randn(1, 35, 8, dtype=torch.float64)
    reduced = F.conv2d(x.transpose(1, 2).view(1, 8, *size), attention.sr.weight, attention.sr.bias, stride=2)
    source = attention.norm(reduced.flatten(2).transpose(1, 2))
    assert source.shape[1] == 2 * 3
    q, (k, v) = attention.q(x), attention.kv(source).chunk(2, dim=2)
    heads = [(q[..., s] @ k[..., s].mT / 2.0).softmax(dim=-1) @ v[..., s] for s in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(attention(x, size), attention.proj(torch.cat(heads, dim=2)))


def test_stochastic_depth_grows(cfg):
    cfg.MODEL.PVT.DROP_PATH_RATE = 0.7
    backbone = build_backbone(cfg, ShapeSpec(channels=3))
    rates = [block.drop_path.p for i in range(1, 5) for block in getattr(backbone, f"block{i}")]
    torch.testing.assert_close(torch.tensor(rates), torch.arange(8) * 0.1)
    assert len(rates) == sum(VARIANTS["b0"][2])


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("PVT.VARIANT", "b9", "MODEL.PVT.VARIANT is 'b9'"),
        ("PVT.OUT_FEATURES", ["stage5"], "MODEL.PVT.OUT_FEATURES names stage5"),
        ("BACKBONE.FREEZE_AT", 2, "MODEL.BACKBONE.FREEZE_AT to -1"),
    ],
)
def test_bad_keys_are_named(cfg, key, value, message):
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg, ShapeSpec(channels=3))
