"""MobileNetV2 (arXiv 1801.04381), as in the released CenterMask-Lite model."""

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

# Expansion, output channels, blocks and stride of the first block, by group.
_GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# Index in `features` of the layer after which a feature is taken, and the feature's name.
_OUTPUTS = {3: "res2", 6: "res3", 13: "res4", 17: "res5"}


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> list:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    # N(0, sqrt(2 / (k * k * out))), also where the fan-out of grouped convolutions is smaller.
    nn.init.normal_(conv.weight, std=(2 / (kernel_size**2 * out_channels)) ** 0.5)
    return [conv, FrozenBatchNorm2d(out_channels)]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection; plus the input where the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers = [] if expansion == 1 else [*_conv_norm(in_channels, hidden, 1), nn.ReLU6(inplace=True)]
        layers += [*_conv_norm(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(inplace=True)]
        self.conv = nn.Sequential(*layers, *_conv_norm(hidden, out_channels, 1))
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(Backbone):
    """Features "res2" ... "res5" of strides 4 to 32, without the classifier's last convolution."""

    def __init__(self, in_channels: int) -> None:
        """Args: in_channels: of the image."""
        super().__init__()
        features: list[nn.Module] = [nn.Sequential(*_conv_norm(in_channels, 32, 3, 2), nn.ReLU6(inplace=True))]
        self._out_features = list(_OUTPUTS.values())
        self._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(self._out_features)}
        self._out_feature_channels = {}
        channels = 32
        for expansion, out_channels, count, first_stride in _GROUPS:
            for i in range(count):
                features.append(InvertedResidual(channels, out_channels, first_stride if i == 0 else 1, expansion))
                channels = out_channels
                if len(features) - 1 in _OUTPUTS:
                    self._out_feature_channels[_OUTPUTS[len(features) - 1]] = channels
        self.features = nn.ModuleList(features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) image -> name -> (N, C_l, H / stride, W / stride)."""
        outputs = {}
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in _OUTPUTS:
                outputs[_OUTPUTS[i]] = x
        return outputs


def build_mobilenetv2(cfg: CfgNode, input_shape: ShapeSpec) -> MobileNetV2:
    """MobileNetV2 whose first `MODEL.BACKBONE.FREEZE_AT` layers are frozen."""
    backbone = MobileNetV2(input_shape.channels)
    for layer in backbone.features[: max(cfg.MODEL.BACKBONE.FREEZE_AT, 0)]:
        layer.requires_grad_(False)
    return backbone
