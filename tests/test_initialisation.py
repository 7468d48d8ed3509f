"""The layers outside the backbones start as in the authors' code: kind and width of the distribution, and biases."""

from math import log, sqrt

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from pentamask import add_pentamask_config
from pentamask.blendmask import BasisModule
from pentamask.centermask import MaskIoUHead, SpatialAttentionMaskHead
from pentamask.fcos import FCOSHead
from pentamask.mask_rcnn import MLPMaskHead
from pentamask.panoptic_segformer.deformable_attention import FeedForward, init_transformer
from pentamask.panoptic_segformer.encoder import ChannelMapper
from pentamask.panoptic_segformer.mask_decoder import MaskDecoder
from pentamask.yolact.mask_networks import MaskIoUNet, ProtoNet
from pentamask.yolact.prediction_head import PredictionHead


def is_uniform(weight: Tensor, bound: float) -> bool:
    """U(-bound, bound): the largest value is just below the bound, the deviation is bound / sqrt(3)."""
    return 0.9 * bound < weight.abs().max() <= bound and abs(weight.std() * sqrt(3) / bound - 1) < 0.15


def is_normal(weight: Tensor, std: float) -> bool:
    """N(0, std): the deviation, and values beyond twice of it."""
    return abs(weight.std() / std - 1) < 0.15 and weight.abs().max() > 2 * std


def xavier(layer: nn.Conv2d | nn.Linear) -> float:
    """The bound of Xavier's uniform distribution: sqrt(6 / (fan-in + fan-out))."""
    out, inside, *kernel = layer.weight.shape
    area = torch.Size(kernel).numel()
    return sqrt(6 / (inside * area + out * area))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_fcos_head():
    head = FCOSHead(in_channels=32, num_classes=20, num_levels=1, num_cls_convs=1, num_box_convs=1, prior_prob=0.1)
    convs = [head.cls_tower[0], head.bbox_tower[0], head.cls_logits, head.bbox_pred, head.ctrness]
    assert all(is_normal(conv.weight, 0.01) for conv in convs)
    torch.testing.assert_close(head.cls_logits.bias, torch.full((20,), -log(9)))
    assert not any(conv.bias.any() for conv in convs if conv is not head.cls_logits)


def test_basis_module():
    net = BasisModule(in_features=["p3"], in_channels=[16], channels=24, num_convs=1, norm="")
    assert is_uniform(net.refine[0][0].weight, sqrt(3 / (16 * 9)))  # Caffe2's Xavier: sqrt(3 / fan-in)
    assert is_uniform(net.tower[0][0].weight, sqrt(3 / (24 * 9)))


def test_centermask():
    head = MaskIoUHead(in_channels=15, resolution=8, num_classes=30, channels=32, num_convs=2, fc_channels=64)
    # MSRA's: sqrt(2 / fan-out).
    assert all(is_normal(conv.weight, sqrt(2 / (32 * 9))) and not conv.bias.any() for conv in head.convs)
    for linear in (head.maskiou_fc1, head.maskiou_fc2):
        assert is_normal(linear.weight, sqrt(2 / 64)) and not linear.bias.any()
    assert is_normal(head.maskiou.weight, 0.01) and not head.maskiou.bias.any()
    cfg = get_cfg()
    add_pentamask_config(cfg)
    gates = [SpatialAttentionMaskHead(cfg, ShapeSpec(channels=8, height=14, width=14)) for _ in range(20)]
    assert is_normal(torch.cat([gate.spatialAtt.conv.weight for gate in gates]), sqrt(2 / 9))


def test_mlp_mask_head():
    head = MLPMaskHead(ShapeSpec(channels=4, height=4, width=4), num_classes=3, fc_dim=48)
    assert is_normal(head.predictor.weight, 0.001) and not head.predictor.bias.any()
    assert is_uniform(head.fcs[0].weight, sqrt(3 / 64)) and is_uniform(head.fcs[1].weight, sqrt(3 / 48))
    assert not any(layer.bias.any() for layer in head.fcs)


def test_yolact():
    head = PredictionHead(in_channels=16, num_anchors=3, num_classes=10, num_prototypes=8)
    for network in (head, ProtoNet(16, 24), MaskIoUNet(10)):
        convs = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        assert all(is_uniform(conv.weight, xavier(conv)) for conv in convs[1:])  # the first may be small
        assert not any(conv.bias.any() for conv in convs)


def test_panoptic_segformer():
    decoder = MaskDecoder(channels=32, hidden_channels=48, num_blocks=1, num_heads=4, num_levels=1, self_attention=True)
    feed_forward = FeedForward(32, 48, 0.0)
    init_transformer(feed_forward)
    linears = [layer for layer in [*decoder.modules(), *feed_forward.modules()] if isinstance(layer, nn.Linear)]
    assert all(is_uniform(linear.weight, xavier(linear)) for linear in linears if linear.weight.numel() > 200)
    assert all(is_uniform(conv.weight, xavier(conv)) for conv in ChannelMapper([24], 32).convs)
