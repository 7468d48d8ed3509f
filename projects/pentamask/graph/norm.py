"""Batch norm on a number of regions that is not known before."""

from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn


class Affine(nn.Module):
    """A batch norm with fixed statistics as a factor and a term for each channel. PyTorch's asks for the batch size."""

    scale: Tensor
    bias: Tensor

    def __init__(self, norm: Any) -> None:
        """Args: norm: `BatchNorm2d` or `FrozenBatchNorm2d`."""
        super().__init__()
        with torch.no_grad():
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            self.register_buffer("scale", scale.view(-1, 1, 1))
            self.register_buffer("bias", (norm.bias - norm.running_mean * scale).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x * self.scale + self.bias


def replace_batch_norms(module: nn.Module) -> None:
    """Make every batch norm below `module` an `Affine`, in place."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (nn.BatchNorm2d, FrozenBatchNorm2d)):
                setattr(parent, name, Affine(child))
