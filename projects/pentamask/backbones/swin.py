"""Detectron2's Swin Transformer, buildable from a YAML config and usable without padding."""

import warnings

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import SwinTransformer
from torchvision.ops import StochasticDepth

from pentamask.common import register


class Swin(SwinTransformer):
    """Detectron2's class; it pads what it needs inside, so images of any size are accepted.

    Stochastic depth is torchvision's; Detectron2's class takes that of a package which it does not require.
    """

    def __init__(self, *, drop_path_rate: float, **options: object) -> None:
        """
        Args:
            drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
            options: the other arguments of Detectron2's class.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.meshgrid")  # of Detectron2's call, which is as it should be
            super().__init__(drop_path_rate=0.0, **options)
        blocks = [block for layer in self.layers for block in layer.blocks]
        for block, rate in zip(blocks, torch.linspace(0, drop_path_rate, len(blocks)).tolist()):
            block.drop_path = StochasticDepth(rate, "row")

    @property
    def size_divisibility(self) -> int:
        """0: no padding. (Detectron2's class reads an attribute here that it never sets.)"""
        return 0


@register(BACKBONE_REGISTRY)
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Swin:
    """Swin (arXiv 2103.14030) as `MODEL.SWIN` describes it; stages "p0" ... "p3" of strides 4, 8, 16 and 32."""
    node = cfg.MODEL.SWIN
    stages = [f"p{i}" for i in range(len(node.DEPTHS))]
    unknown = set(node.OUT_FEATURES) - set(stages)
    if unknown:
        raise ValueError(
            f"MODEL.SWIN.OUT_FEATURES names {', '.join(sorted(unknown))}; choose from {', '.join(stages)}."
        )
    return Swin(
        in_chans=input_shape.channels,
        embed_dim=node.EMBED_DIM,
        depths=node.DEPTHS,
        num_heads=node.NUM_HEADS,
        window_size=node.WINDOW_SIZE,
        drop_path_rate=node.DROP_PATH_RATE,
        frozen_stages=cfg.MODEL.BACKBONE.FREEZE_AT,
        out_indices=[i for i, name in enumerate(stages) if name in node.OUT_FEATURES],
    )
