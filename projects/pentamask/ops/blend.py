"""BlendMask's blender: RoI crops of the bases, weighted by upsampled attention."""

from typing import Any

import torch
from torch import Tensor

from . import reference
from ._extension import COMPILED_DEVICES, has_compiled_ops, no_double_backward, no_vmap


def blend(bases: Tensor, rois: Tensor, attn: Tensor, spatial_scale: float, output_size: int) -> Tensor:
    """Blend the bases of each instance into one map of mask logits (BlendMask, section 3.1 and eq. 2-4).

    RoIAlign with one sample per bin (`aligned=True`), times the softmax over the K maps of the bilinearly upsampled
    attention, summed over the maps. Differentiable in `bases` and `attn`; `rois` get no gradient. float32, float64,
    float16 and bfloat16; 16 bit is summed in float32.

    Args:
        bases: (B, K, H, W), K score maps per image.
        rois: (N, 5), image index and xyxy in input pixels; float32 (float64 if the bases are).
        attn: (N, K, A, A), attention logits in the type of `bases`.
        spatial_scale: pixels of `bases` per input pixel.
        output_size: R, rows and columns of the result.

    Returns:
        (N, R, R) mask logits in the type of `bases`.

    Raises:
        ValueError, TypeError: an argument of a wrong shape, type or device, a scale that is not finite, or an image
            index outside the batch (checked on CPU; a GPU gives zeros).
    """
    reference.check_scale(spatial_scale)
    if not has_compiled_ops(bases.device.type):
        return reference.blend(bases, rois, attn, spatial_scale, output_size)
    return torch.ops.pentamask.blend(bases, rois, attn, spatial_scale, output_size)


def _fake(bases: Tensor, rois: Tensor, attn: Tensor, spatial_scale: float, output_size: int) -> Tensor:
    return bases.new_empty((rois.shape[0], output_size, output_size))


def _fake_backward(
    grad_out: Tensor,
    bases: Tensor,
    rois: Tensor,
    attn: Tensor,
    spatial_scale: float,
    output_size: int,
    bases_grad: bool = True,
    attn_grad: bool = True,
) -> tuple[Tensor, Tensor]:
    return bases.new_empty(bases.shape if bases_grad else (0,)), attn.new_empty(attn.shape if attn_grad else (0,))


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    bases, rois, attn, ctx.spatial_scale, ctx.output_size = inputs
    ctx.save_for_backward(bases, rois, attn)


def _backward(ctx: Any, grad_out: Tensor) -> tuple:
    bases_grad, _, attn_grad = ctx.needs_input_grad[:3]
    grad_bases, grad_attn = torch.ops.pentamask.blend_backward(
        grad_out, *ctx.saved_tensors, ctx.spatial_scale, ctx.output_size, bases_grad, attn_grad
    )
    return grad_bases if bases_grad else None, None, grad_attn if attn_grad else None, None, None


if COMPILED_DEVICES:
    torch.library.register_fake("pentamask::blend", _fake)
    torch.library.register_fake("pentamask::blend_backward", _fake_backward)
    torch.library.register_autograd("pentamask::blend", _backward, setup_context=_setup_context)
    no_double_backward("pentamask::blend_backward")
    no_vmap("pentamask::blend")
    no_vmap("pentamask::blend_backward")
