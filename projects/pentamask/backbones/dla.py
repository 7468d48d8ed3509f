"""DLA-34 (Deep Layer Aggregation, arXiv 1707.06484), as in the released FCOS and BlendMask models."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

# Output channels of level0 ... level5.
_CHANNELS = (16, 32, 64, 128, 256, 512)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


class BasicBlock(nn.Module):
    """3x3 convolution, norm, ReLU, 3x3 convolution, norm; plus a residual; ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(in_channels, out_channels, 3, stride), get_norm(norm, out_channels)
        self.conv2, self.bn2 = _conv(out_channels, out_channels, 3), get_norm(norm, out_channels)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Args: residual: added instead of `x` if given."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + (x if residual is None else residual))


class Root(nn.Module):
    """Aggregation node: concatenation, 1x1 convolution, norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.conv, self.bn = _conv(in_channels, out_channels, 1), get_norm(norm, out_channels)

    def forward(self, *children: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(torch.cat(children, dim=1))))


class Tree(nn.Module):
    """Two blocks and their aggregation (hierarchical for depth 2: two trees, the second of which aggregates).

    The outer tree of depth 2 has a projection that changes no output, since its first child, a tree, makes its own
    residual; the released files hold its weights, and in training its batch statistics follow the data.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int,
        out_channels: int,
        stride: int,
        norm: str,
        level_root: bool = False,
        root_channels: int = 0,
    ) -> None:
        """
        Args:
            depth: 1 or 2.
            level_root: also aggregate the downsampled input.
            root_channels: channels of further tensors that `forward` gets to aggregate.
        """
        super().__init__()
        root_channels += in_channels if level_root else 0
        if depth == 1:
            self.tree1: nn.Module = BasicBlock(in_channels, out_channels, stride, norm)
            self.tree2: nn.Module = BasicBlock(out_channels, out_channels, 1, norm)
            self.root = Root(2 * out_channels + root_channels, out_channels, norm)
        else:
            self.tree1 = Tree(1, in_channels, out_channels, stride, norm)
            self.tree2 = Tree(1, out_channels, out_channels, 1, norm, root_channels=root_channels + out_channels)
        self.downsample = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()
        self.project = None
        if in_channels != out_channels:
            self.project = nn.Sequential(_conv(in_channels, out_channels, 1), get_norm(norm, out_channels))
        self.depth = depth
        self.level_root = level_root

    def forward(self, x: Tensor, children: tuple[Tensor, ...] = ()) -> Tensor:
        """Args: children: further tensors for the aggregation, at output size."""
        bottom = self.downsample(x)
        if self.level_root:
            children = (*children, bottom)
        if self.depth == 1:
            x1 = self.tree1(x, bottom if self.project is None else self.project(bottom))
            return self.root(self.tree2(x1), x1, *children)
        if self.training and self.project is not None:
            # Zero gradients instead of none for the unused projection.
            x = x + 0 * self.project(bottom).sum()
        x1 = self.tree1(x)
        return self.tree2(x1, (*children, x1))


class DLA34(Backbone):
    """Six levels; level l has stride 2 ** l."""

    def __init__(self, in_channels: int, norm: str, out_features: list[str]) -> None:
        """Args: out_features: the names to return, of "level0" ... "level5"."""
        super().__init__()
        c = _CHANNELS
        self.base_layer = self._conv_level(in_channels, c[0], 7, 1, norm)
        self.level0 = self._conv_level(c[0], c[0], 3, 1, norm)
        self.level1 = self._conv_level(c[0], c[1], 3, 2, norm)
        self.level2 = Tree(1, c[1], c[2], 2, norm)
        self.level3 = Tree(2, c[2], c[3], 2, norm, level_root=True)
        self.level4 = Tree(2, c[3], c[4], 2, norm, level_root=True)
        self.level5 = Tree(1, c[4], c[5], 2, norm, level_root=True)
        self._out_features = list(out_features)
        self._out_feature_channels = {f"level{i}": channels for i, channels in enumerate(c)}
        self._out_feature_strides = {f"level{i}": 2**i for i in range(len(c))}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # N(0, sqrt(2 / (k * k * out))).
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _conv_level(in_channels: int, out_channels: int, kernel_size: int, stride: int, norm: str) -> nn.Sequential:
        conv = _conv(in_channels, out_channels, kernel_size, stride)
        return nn.Sequential(conv, get_norm(norm, out_channels), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) image -> name -> (N, C_l, H / 2 ** l, W / 2 ** l)."""
        outputs = OrderedDict()
        x = self.base_layer(x)
        for i in range(len(_CHANNELS)):
            x = getattr(self, f"level{i}")(x)
            if f"level{i}" in self._out_features:
                outputs[f"level{i}"] = x
        return outputs


def build_dla(cfg: CfgNode, input_shape: ShapeSpec) -> DLA34:
    """DLA-34 with the levels that `MODEL.FPN.IN_FEATURES` names."""
    if cfg.MODEL.BACKBONE.FREEZE_AT >= 0:
        raise ValueError(
            f"DLA has no frozen stages: set MODEL.BACKBONE.FREEZE_AT to -1, it is {cfg.MODEL.BACKBONE.FREEZE_AT}."
        )
    return DLA34(input_shape.channels, cfg.MODEL.DLA.NORM, cfg.MODEL.FPN.IN_FEATURES)
