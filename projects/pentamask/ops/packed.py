"""Convolutions and linear layers of inference on a CPU, with weights that were rearranged beforehand.

PyTorch's own layers rearrange the weights in every call, and hand 1 x 1 convolutions and linear layers to a library
that uses half of some processors' vector units. There is no gradient.
"""

from typing import Any

import torch
from torch import Tensor

from . import reference
from ._extension import COMPILED_DEVICES, has_compiled_ops

COLUMN_BLOCK = 16


def pack_matrix(weight: Tensor) -> Tensor:
    """(..., K, C) weights of linear layers -> (..., K / 16, C, 16), the last block filled up with zeros."""
    *batch, rows, columns = weight.shape
    # Not F.pad, which fails for no columns in PyTorch 2.6.
    padded = torch.cat([weight, weight.new_zeros(*batch, -rows % COLUMN_BLOCK, columns)], dim=-2)
    return padded.unflatten(-2, (-1, COLUMN_BLOCK)).transpose(-1, -2).contiguous()


def packed_linear(
    input: Tensor,
    weight: Tensor,
    out_features: int,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """A linear layer; what is added to its result and done with it comes at no cost.

    Args:
        input: (..., C), float32 or float64.
        weight: (ceil(K / 16), C, 16), by `pack_matrix`.
        out_features: K.
        bias: (K,).
        residual: (..., K), added.
        relu: set what is negative to 0.

    Returns:
        (..., K).

    Raises:
        ValueError, TypeError: an argument of a wrong shape, type or device.
    """
    if not has_compiled_ops() or input.device.type not in ("cpu", "meta"):
        return reference.packed_linear(input, weight, out_features, bias, residual, relu)
    return torch.ops.pentamask.packed_linear(input, weight, out_features, bias, residual, relu)


def pack_winograd_weight(weight: Tensor) -> Tensor:
    """(K, C, 3, 3) weights -> what `winograd_conv3x3` takes: (36, K / 16, C, 16)."""
    transform = reference.winograd_weight_matrix().to(weight.device)
    matrices = torch.einsum("ia,kcab,jb->ijkc", transform, weight.double(), transform).flatten(0, 1)
    return pack_matrix(matrices.to(weight.dtype))


def winograd_conv3x3(
    input: Tensor, weight: Tensor, out_channels: int, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """A 3 x 3 convolution with padding 1 and a quarter of the multiplications: F(4 x 4, 3 x 3) of Lavin and Gray
    (arXiv 1509.09308), interpolating in 0, +-2/3, +-4/3 and infinity, which in float32 is wrong by some 1e-6 of the
    largest value.

    Args:
        input: (N, C, H, W), float32 or float64; fastest in `torch.channels_last`.
        weight: (36, ceil(K / 16), C, 16), by `pack_winograd_weight`.
        out_channels: K.
        bias: (K,).
        relu: set what is negative to 0.

    Returns:
        (N, K, H, W) in `torch.channels_last`.

    Raises:
        ValueError, TypeError: an argument of a wrong shape, type or device.
    """
    if not has_compiled_ops() or input.device.type not in ("cpu", "meta"):
        return reference.winograd_conv3x3(input, weight, out_channels, bias, relu)
    return torch.ops.pentamask.winograd_conv3x3(input, weight, out_channels, bias, relu)


def _fake_linear(
    input: Tensor,
    weight: Tensor,
    out_features: int,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    return input.new_empty((*input.shape[:-1], out_features))


def _fake_winograd(
    input: Tensor, weight: Tensor, out_channels: int, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    n, _, h, w = input.shape
    return torch.empty(
        (n, out_channels, h, w), dtype=input.dtype, device=input.device, memory_format=torch.channels_last
    )


def refuse_gradient(ctx: Any, *grads: Tensor) -> None:
    """The gradient formula of operators that have none."""
    raise NotImplementedError("This operator is for inference: it has no gradient.")


if COMPILED_DEVICES:
    for _name, _fake in (("packed_linear", _fake_linear), ("winograd_conv3x3", _fake_winograd)):
        torch.library.register_fake(f"pentamask::{_name}", _fake)
        torch.library.register_autograd(f"pentamask::{_name}", refuse_gradient)
