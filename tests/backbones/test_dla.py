import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec

from pentamask.backbones.config import add_backbone_config
from pentamask.backbones.dla import DLA34, Tree, build_dla

FEATURES = ["level3", "level4", "level5"]


def test_shapes_match_what_it_says():
    model = DLA34(3, "BN", FEATURES).eval()
    outputs = model(torch.randn(1, 3, 64, 96))
    for name, shape in model.output_shape().items():
        assert outputs[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
    assert [model.output_shape()[f].channels for f in FEATURES] == [128, 256, 512]


def test_unused_projection_changes_no_output_but_trains():
    torch.manual_seed(0)
    tree = Tree(2, 4, 8, 2, "BN", level_root=True)
    x = torch.randn(2, 4, 8, 8)
    tree.eval()
    before = tree(x)
    torch.nn.init.constant_(tree.project[0].weight, 3.0)
    assert torch.equal(tree(x), before)
    tree.train()
    tree(x).sum().backward()
    assert (tree.project[0].weight.grad == 0).all()
    assert (tree.project[1].running_mean != 0).any()


def test_aggregation_order():
    """Root inputs are: second block, first block, downsampled input, outer first tree."""
    tree = Tree(2, 2, 2, 2, "BN", level_root=True).eval()
    seen = []
    tree.tree2.root.register_forward_pre_hook(lambda m, args: seen.extend(args))
    outer = []
    tree.tree1.register_forward_hook(lambda m, a, y: outer.append(y))
    x = torch.randn(1, 2, 4, 4)
    tree(x)
    assert len(seen) == 4
    assert torch.equal(seen[2], torch.nn.functional.max_pool2d(x, 2))
    assert torch.equal(seen[3], outer[0])


def test_bad_config_names_the_key():
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    with pytest.raises(ValueError, match="FREEZE_AT"):
        build_dla(cfg, ShapeSpec(channels=3))
