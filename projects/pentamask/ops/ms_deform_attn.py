"""Multi-scale deformable attention, the operator of Deformable DETR and Panoptic SegFormer."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from ._extension import COMPILED_DEVICES, has_compiled_ops, no_double_backward, no_vmap


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    level_start_index: Tensor | None,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int | None = None,
) -> Tensor:
    """Sum bilinear samples of several feature levels (Deformable DETR, eq. 3, between its two projections).

    N images, S tokens (all levels, each row-major), M heads, D channels per head, L levels, Q queries, P points per
    level. A pixel outside its level counts as zero, and so does a location that is not finite. Differentiable in
    `value`, `sampling_locations` and `attention_weights`; float32, float64, float16 and bfloat16; 16-bit values are
    summed in float32.

    Args:
        value: (N, S, M, D).
        spatial_shapes: (L, 2) int64, height and width of each level; or L pairs of them, which is faster where there
            is no compiled operator, and is exported as fewer steps.
        level_start_index: (L,) int64, first token of each level; None if the levels follow one another.
        sampling_locations: (N, Q, M, L, P, 2), (x, y) in 0-1 over the level; float32, float64 with a float64 value;
            16 bit is accepted, but a bfloat16 location near 1 is off by up to a third of a pixel on a 167 wide level.
        attention_weights: (N, Q, M, L, P), used as given (no softmax), in the type of `value` or float32.
        im2col_step: accepted because the published layers pass it; the result does not depend on it.

    Returns:
        (N, Q, M * D) in the type of `value`.

    Raises:
        ValueError, TypeError: an argument of a wrong shape, type or device, or a level outside `value` (checked on
            CPU; a GPU gives zeros).
    """
    compiled = has_compiled_ops(value.device.type)
    if not isinstance(spatial_shapes, Tensor):
        if not compiled and level_start_index is None:
            return reference.ms_deform_attn_of_levels(value, spatial_shapes, sampling_locations, attention_weights)
        spatial_shapes = _as_tensor(spatial_shapes, value.device)
    if level_start_index is None:
        level_start_index = F.pad(spatial_shapes.prod(dim=1).cumsum(dim=0)[:-1], (1, 0))
    args = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    return torch.ops.pentamask.ms_deform_attn(*args) if compiled else reference.ms_deform_attn(*args)


def _as_tensor(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """(L, 2) int64, also of sizes that are tensors or symbols because the model is traced or exported."""
    if all(type(size) is int for shape in shapes for size in shape):
        return torch.tensor(shapes, device=device)
    zero = torch.zeros((), dtype=torch.int64, device=device)
    return torch.stack([zero + size for shape in shapes for size in shape]).unflatten(0, (-1, 2))


def _fake(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    return value.new_empty((value.shape[0], sampling_locations.shape[1], value.shape[2] * value.shape[3]))


def _fake_backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    value_grad: bool = True,
    locations_grad: bool = True,
    weights_grad: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape if value_grad else (0,)),
        sampling_locations.new_empty(sampling_locations.shape if locations_grad else (0,)),
        attention_weights.new_empty(attention_weights.shape if weights_grad else (0,)),
    )


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_out: Tensor) -> tuple:
    needs = ctx.needs_input_grad
    wanted = (needs[0], needs[3], needs[4])
    grads = torch.ops.pentamask.ms_deform_attn_backward(grad_out, *ctx.saved_tensors, *wanted)
    value, locations, weights = (grad if want else None for grad, want in zip(grads, wanted))
    return value, None, None, locations, weights


if COMPILED_DEVICES:
    torch.library.register_fake("pentamask::ms_deform_attn", _fake)
    torch.library.register_fake("pentamask::ms_deform_attn_backward", _fake_backward)
    torch.library.register_autograd("pentamask::ms_deform_attn", _backward, setup_context=_setup_context)
    no_double_backward("pentamask::ms_deform_attn_backward")
    no_vmap("pentamask::ms_deform_attn")
    no_vmap("pentamask::ms_deform_attn_backward")
