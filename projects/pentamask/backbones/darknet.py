"""Darknet-53 (YOLOv3, arXiv 1804.02767), as in the released YOLACT models."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.backbone import Backbone
from fvcore.nn import weight_init
from torch import Tensor, nn

_STEM_CHANNELS = 32


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, norm: str) -> nn.Sequential:
    """Convolution without bias, norm, leaky ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    weight_init.c2_msra_fill(conv)
    return nn.Sequential(conv, get_norm(norm, out_channels), nn.LeakyReLU(0.1))


class DarknetBlock(nn.Module):
    """1x1 convolution to half the channels, 3x3 convolution back, plus the input; no activation after the sum."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels // 2, 1, 1, norm)
        self.conv2 = _conv(channels // 2, channels, 3, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + self.conv2(self.conv1(x))


class Darknet(Backbone):
    """A stem and stages "dark1", "dark2", ...; stage i halves the resolution, so that its stride is 2 ** i."""

    def __init__(self, in_channels: int, blocks: list[int], norm: str, out_features: list[str]) -> None:
        """
        Args:
            in_channels: of the image.
            blocks: residual blocks of each stage; [1, 2, 8, 8, 4] is Darknet-53.
            norm: of all layers.
            out_features: the stages to return.
        """
        super().__init__()
        self.preconv = _conv(in_channels, _STEM_CHANNELS, 3, 1, norm)
        self.layers = nn.ModuleList()
        for i, count in enumerate(blocks):
            channels = 2 * _STEM_CHANNELS * 2**i
            downsample = _conv(channels // 2, channels, 3, 2, norm)
            self.layers.append(nn.Sequential(downsample, *(DarknetBlock(channels, norm) for _ in range(count))))
        self._out_feature_channels = {f"dark{i + 1}": 2 * _STEM_CHANNELS * 2**i for i in range(len(blocks))}
        self._out_feature_strides = {f"dark{i + 1}": 2 ** (i + 1) for i in range(len(blocks))}
        unknown = [name for name in out_features if name not in self._out_feature_strides]
        if unknown:
            raise ValueError(
                f"MODEL.FPN.IN_FEATURES names {unknown}; Darknet has {', '.join(self._out_feature_strides)}."
            )
        self._out_features = list(out_features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) image -> name -> (N, C_i, H / 2 ** i, W / 2 ** i), rounded up."""
        outputs = {}
        x = self.preconv(x)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if f"dark{i + 1}" in self._out_features:
                outputs[f"dark{i + 1}"] = x
        return outputs


def build_darknet(cfg: CfgNode, input_shape: ShapeSpec) -> Darknet:
    """`MODEL.DARKNET` with the stages that `MODEL.FPN.IN_FEATURES` names."""
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        raise ValueError(
            f"Darknet has no frozen stages: set MODEL.BACKBONE.FREEZE_AT to 0, it is {cfg.MODEL.BACKBONE.FREEZE_AT}."
        )
    node = cfg.MODEL.DARKNET
    return Darknet(input_shape.channels, node.BLOCKS, node.NORM, cfg.MODEL.FPN.IN_FEATURES)
