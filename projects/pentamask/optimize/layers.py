"""Layers with packed weights. An ordinary layer becomes one of these by `pack`, in place."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn

from pentamask.ops import is_exporting
from pentamask.ops.packed import COLUMN_BLOCK, pack_matrix, pack_winograd_weight, packed_linear, winograd_conv3x3

from .pooling import can_pool_at_once, pool_at_once


class PackedConv2d(Conv2d):
    """A 1 x 1 convolution as a product of matrices, or a 3 x 3 one by Winograd's algorithm.

    Attributes:
        weight, bias: those of the layer, for where the packed weights do not serve: on a GPU, in
            another type, in export.
        packed: the packed weights.
        relu: whether a ReLU ends the layer.
    """

    packed: Tensor
    relu: bool

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, K, h, w); `residual`, of the result's shape, is added before the ReLU."""
        if not _serves(self.packed, x):
            y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
            y, relu = (y if residual is None else y + residual), self.relu
        elif self.kernel_size == (3, 3):
            y = winograd_conv3x3(x, self.packed, self.out_channels, self.bias, self.relu and residual is None)
            y, relu = (y, False) if residual is None else (y + residual, self.relu)
        else:
            if self.stride != (1, 1):
                x = x[:, :, :: self.stride[0], :: self.stride[1]]
            added = residual.permute(0, 2, 3, 1) if residual is not None else None
            y = packed_linear(x.permute(0, 2, 3, 1), self.packed, self.out_channels, self.bias, added, self.relu)
            y, relu = y.permute(0, 3, 1, 2), False
        y = F.relu_(y) if relu else y
        y = self.norm(y) if self.norm is not None else y
        return self.activation(y) if self.activation is not None else y


class PackedLinear(nn.Linear):
    """A linear layer."""

    packed: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., K)."""
        if not _serves(self.packed, x):
            return super().forward(x)
        return packed_linear(x, self.packed, self.out_features, self.bias)


class FusedBottleneckBlock(BottleneckBlock):
    """Detectron2's block, whose sum and ReLUs are part of its packed convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, h, w)."""
        y = self.conv2(self.conv1(x))
        y = y if getattr(self.conv2, "relu", False) else F.relu_(y)
        return self.conv3(y, x if self.shortcut is None else self.shortcut(x))


class PackedConvTranspose2d(nn.ConvTranspose2d):
    """A 2 x 2 transposed convolution of stride 2, as a product of matrices.

    Attributes:
        weight, bias, packed, relu: as those of `PackedConv2d`.
    """

    packed: Tensor
    relu: bool

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, K, 2 H, 2 W)."""
        if not _serves(self.packed, x):
            y = super().forward(x)
            return F.relu_(y) if self.relu else y
        bias = self.bias.repeat(4) if self.bias is not None else None
        y = packed_linear(x.permute(0, 2, 3, 1), self.packed, 4 * self.out_channels, bias, relu=self.relu)
        y = y.unflatten(-1, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return y.permute(0, 3, 1, 2)


class PackedROIPooler(ROIPooler):
    """Detectron2's, for all levels at once."""

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """(N, C, H, W) of each level and R boxes -> (R, C, S, S)."""
        if not box_lists or torch.is_autocast_enabled("cpu") or not can_pool_at_once(self, x):
            return super().forward(x, box_lists)
        rois = convert_boxes_to_pooler_format(box_lists)
        levels = torch.zeros(len(rois), dtype=torch.int64, device=rois.device)
        if len(self.level_poolers) > 1:
            levels = assign_boxes_to_levels(
                box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
            )
        return pool_at_once(self, x, rois, levels)


def _serves(packed: Tensor, x: Tensor) -> bool:
    """Whether the packed weights may be used for `x`. Exported graphs have PyTorch's own layers."""
    return (
        x.device.type == packed.device.type == "cpu"
        and x.dtype == packed.dtype
        and not torch.is_autocast_enabled("cpu")
        and not is_exporting()
    )


def pack(layer: Any) -> None:
    """Make a layer that gains by it, and whose type is known exactly, one of the classes above; leave others alone."""
    if type(layer) is nn.Linear:
        layer.__class__ = PackedLinear
        layer.register_buffer("packed", pack_matrix(layer.weight.data), persistent=False)
    elif type(layer) is ROIPooler:
        layer.__class__ = PackedROIPooler
    elif type(layer) is nn.ConvTranspose2d and _doubles(layer):
        layer.__class__ = PackedConvTranspose2d
        matrix = layer.weight.data.permute(2, 3, 1, 0).flatten(0, 2)
        layer.register_buffer("packed", pack_matrix(matrix), persistent=False)
        layer.relu = False  # type: ignore[assignment]
    elif type(layer) in (nn.Conv2d, Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros":
        weight = _packed_weight(layer)
        if weight is not None:
            layer.norm, layer.activation = getattr(layer, "norm", None), getattr(layer, "activation", None)
            layer.__class__ = PackedConv2d
            layer.register_buffer("packed", weight, persistent=False)
            layer.relu = False
            if layer.norm is None and layer.activation in (F.relu, F.relu_, torch.relu):
                layer.relu, layer.activation = True, None


def _packed_weight(conv: nn.Conv2d) -> Tensor | None:
    geometry = (conv.kernel_size, conv.padding, conv.dilation)
    if geometry == ((1, 1), (0, 0), (1, 1)):
        return pack_matrix(conv.weight.data[:, :, 0, 0])
    if geometry == ((3, 3), (1, 1), (1, 1)) and conv.stride == (1, 1) and conv.in_channels >= COLUMN_BLOCK:
        return pack_winograd_weight(conv.weight.data)
    return None


def _doubles(conv: nn.ConvTranspose2d) -> bool:
    """Whether every pixel becomes 2 x 2 pixels of its own."""
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.output_padding, conv.dilation, conv.groups)
    return geometry == ((2, 2), (2, 2), (0, 0), (0, 0), (1, 1), 1)
