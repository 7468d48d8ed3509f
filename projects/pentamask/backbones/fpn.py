"""Feature pyramids whose extra levels come from the last FPN output."""

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import Tensor, nn

from pentamask.common import register

from .dla import build_dla
from .mobilenetv2 import build_mobilenetv2
from .resnet import build_deformable_resnet
from .vovnet import build_vovnet


class LastLevelP6(nn.Module):
    """One extra level: p6, a stride-2 convolution of p5."""

    num_levels = 1
    in_feature = "p5"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        weight_init.c2_xavier_fill(self.p6)

    def forward(self, p5: Tensor) -> list[Tensor]:
        return [self.p6(p5)]


def build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Detectron2's FPN on `bottom_up` with the `MODEL.FCOS.TOP_LEVELS` extra levels (0, 1 or 2) made from p5."""
    channels, top_levels = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FCOS.TOP_LEVELS
    if top_levels not in (0, 1, 2):
        raise ValueError(f"MODEL.FCOS.TOP_LEVELS is {top_levels}; it must be 0, 1 or 2.")
    top_block = None
    if top_levels == 1:
        top_block = LastLevelP6(channels)
    elif top_levels == 2:
        top_block = LastLevelP6P7(channels, channels, in_feature="p5")
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@register(BACKBONE_REGISTRY)
def build_resnet_fpn_p6p7_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet, with or without deformable blocks, and FPN."""
    return build_fpn(cfg, build_deformable_resnet(cfg, input_shape))


@register(BACKBONE_REGISTRY)
def build_dla_fpn_p6p7_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """DLA-34 and FPN."""
    return build_fpn(cfg, build_dla(cfg, input_shape))


@register(BACKBONE_REGISTRY)
def build_vovnet_fpn_p6p7_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """VoVNetV2, with or without deformable stages, and FPN."""
    return build_fpn(cfg, build_vovnet(cfg, input_shape))


@register(BACKBONE_REGISTRY)
def build_mobilenetv2_fpn_p6p7_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """MobileNetV2 and FPN."""
    return build_fpn(cfg, build_mobilenetv2(cfg, input_shape))


# The names of the same builders in the config files of AdelaiDet and centermask2.


@register(BACKBONE_REGISTRY)
def build_fcos_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet and FPN, or MobileNetV2 with `MODEL.MOBILENET`."""
    if cfg.MODEL.BACKBONE.ANTI_ALIAS:
        raise ValueError(
            "MODEL.BACKBONE.ANTI_ALIAS True: the low-pass ResNet does not exist here; set it to False to train with "
            "the ordinary one. Weights of a low-pass model cannot be used."
        )
    build = build_mobilenetv2_fpn_p6p7_backbone if cfg.MODEL.MOBILENET else build_resnet_fpn_p6p7_backbone
    return build(cfg, input_shape)


register(BACKBONE_REGISTRY, "build_fcos_dla_fpn_backbone")(build_dla_fpn_p6p7_backbone)
register(BACKBONE_REGISTRY, "build_fcos_vovnet_fpn_backbone")(build_vovnet_fpn_p6p7_backbone)
register(BACKBONE_REGISTRY, "build_fcos_mobilenetv2_fpn_backbone")(build_mobilenetv2_fpn_p6p7_backbone)
