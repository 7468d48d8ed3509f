"""CenterMask's spatial attention module (SAM)."""

from typing import Any

import torch
from torch import Tensor

from . import reference
from ._extension import COMPILED_DEVICES, has_compiled_ops, no_double_backward, no_vmap


def spatial_attention(input: Tensor, weight: Tensor) -> Tensor:
    """Weight every pixel by a gate made from the mean and the maximum over the channels (CenterMask, eq. 3 and 4).

    gate = sigmoid(conv(cat(mean, max), weight)), zero padded; the result is `input` times the gate. As in the released
    code, and unlike the formula, the mean comes first. The maximum's gradient goes to the lowest channel that attains
    it. Differentiable in both; float32, float64, float16 and bfloat16; 16 bit is summed in float32, and
    its gate kept in float32 for the gradients, as the slope gate * (1 - gate) of a rounded gate near 1 has no digits.

    Args:
        input: (N, C, H, W) features of N regions, contiguous or channels-last; the result has the same layout.
        weight: (1, 2, k, k), k = 3 or 7, in the type of `input`.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError, TypeError: an argument of a wrong shape, type or device.
    """
    if not has_compiled_ops(input.device.type):
        return reference.spatial_attention(input, weight)
    return torch.ops.pentamask.spatial_attention(input, weight)


def _empty(input: Tensor) -> Tensor:
    """Like `input`, channels-last if it is, else contiguous."""
    channels_last = not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(input, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _fake_forward(input: Tensor, weight: Tensor, with_argmax: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    gate_shape = (input.shape[0], 1, input.shape[2], input.shape[3])
    argmax = input.new_empty(gate_shape if with_argmax else (0,), dtype=torch.int64)
    return _empty(input), input.new_empty(gate_shape, dtype=reference.compute_type(input)), argmax


def _fake_backward(
    grad_out: Tensor,
    input: Tensor,
    weight: Tensor,
    gate: Tensor,
    argmax: Tensor,
    input_grad: bool = True,
    weight_grad: bool = True,
) -> tuple[Tensor, Tensor]:
    grad_input = _empty(input) if input_grad else input.new_empty((0,))
    return grad_input, weight.new_empty(weight.shape if weight_grad else (0,))


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1], output[2])
    ctx.mark_non_differentiable(output[1], output[2])


def _backward(ctx: Any, grad_out: Tensor, *unused: Tensor | None) -> tuple:
    input_grad, weight_grad = ctx.needs_input_grad[:2]
    grad_input, grad_weight = torch.ops.pentamask.spatial_attention_backward(
        grad_out, *ctx.saved_tensors, input_grad, weight_grad
    )
    return grad_input if input_grad else None, grad_weight if weight_grad else None, None


if COMPILED_DEVICES:
    torch.library.register_fake("pentamask::_spatial_attention_forward", _fake_forward)
    torch.library.register_fake("pentamask::spatial_attention_backward", _fake_backward)
    torch.library.register_autograd("pentamask::_spatial_attention_forward", _backward, setup_context=_setup_context)
    no_double_backward("pentamask::spatial_attention_backward")
    no_vmap("pentamask::spatial_attention")
    no_vmap("pentamask::_spatial_attention_forward")
    no_vmap("pentamask::spatial_attention_backward")
