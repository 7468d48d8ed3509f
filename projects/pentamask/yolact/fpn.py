"""YOLACT's feature pyramid, which Detectron2's FPN cannot express."""

import math

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from pentamask.backbones.darknet import build_darknet
from pentamask.backbones.resnet import build_deformable_resnet
from pentamask.common import register


class YolactFPN(Backbone):
    """Feature pyramid (YOLACT, "Backbone Detector"; details as in the released code).

    Unlike Detectron2's FPN it upsamples bilinearly to the exact size of the finer map, and a ReLU ends the levels
    that have a lateral input. The extra levels are strided convolutions without any ReLU.
    """

    def __init__(self, bottom_up: Backbone, in_features: list[str], out_channels: int, num_extra_levels: int) -> None:
        """
        Args:
            bottom_up: the network below.
            in_features: its features to use, high resolution first.
            out_channels: channels of every level.
            num_extra_levels: levels added above the coarsest one.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        missing = [name for name in in_features if name not in shapes]
        if missing:
            raise ValueError(f"MODEL.FPN.IN_FEATURES names {missing}; the network below has {', '.join(shapes)}.")
        self.bottom_up = bottom_up
        self.in_features = list(in_features)
        # Coarsest level first, as in the authors' files.
        self.lat_layers = nn.ModuleList(
            nn.Conv2d(shapes[name].channels, out_channels, 1) for name in reversed(in_features)
        )
        self.pred_layers = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_features)
        self.downsample_layers = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1) for _ in range(num_extra_levels)
        )
        xavier_init(self.lat_layers, self.pred_layers, self.downsample_layers)
        strides = [shapes[name].stride for name in in_features]
        strides += [strides[-1] * 2 ** (i + 1) for i in range(num_extra_levels)]
        self._out_feature_strides = {f"p{int(math.log2(stride))}": stride for stride in strides}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) image -> "p3", "p4", ... -> (N, C, H / stride, W / stride), rounded up."""
        features = self.bottom_up(image)
        levels: list[Tensor] = []
        x = None
        for name, lateral, output in zip(reversed(self.in_features), self.lat_layers, self.pred_layers):
            y = lateral(features[name])
            x = y if x is None else y + F.interpolate(x, y.shape[-2:], mode="bilinear", align_corners=False)
            levels.insert(0, F.relu(output(x)))
        for downsample in self.downsample_layers:
            levels.append(downsample(levels[-1]))
        return dict(zip(self._out_features, levels))


def xavier_init(*modules: nn.Module) -> None:
    """The authors' start of all layers outside the backbone: Xavier uniform weights, zero biases."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one


def _build(cfg: CfgNode, bottom_up: Backbone) -> YolactFPN:
    return YolactFPN(
        bottom_up, cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.YOLACT.NUM_EXTRA_LEVELS
    )


@register(BACKBONE_REGISTRY)
def build_yolact_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> YolactFPN:
    """ResNet, with or without deformable blocks, and YOLACT's FPN."""
    return _build(cfg, build_deformable_resnet(cfg, input_shape))


@register(BACKBONE_REGISTRY)
def build_yolact_darknet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> YolactFPN:
    """Darknet and YOLACT's FPN."""
    return _build(cfg, build_darknet(cfg, input_shape))
