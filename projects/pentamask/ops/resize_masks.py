"""Masks at the size of a picture, without their values there."""

import torch
from torch import Tensor

from . import reference
from ._extension import COMPILED_DEVICES, has_compiled_ops, is_exporting
from .packed import refuse_gradient


def resize_masks(masks: Tensor, height: int, width: int, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Resize masks bilinearly and compare them with a threshold. There is no gradient.

    Args:
        masks: (N, h, w) values, float32 or float64.
        height, width: of the result.
        threshold: a pixel is inside if its value is greater.

    Returns:
        inside: (N, height, width) bool, of `F.interpolate(..., mode="bilinear")`.
        sums: (N, 2), of the values of the pixels inside, and their number.

    Raises:
        ValueError, TypeError: an argument of a wrong shape or type.
    """
    plain = masks.device.type not in ("cpu", "meta") or masks.dtype not in (torch.float32, torch.float64)
    if plain or not has_compiled_ops() or is_exporting():
        return reference.resize_masks(masks, height, width, threshold)
    return torch.ops.pentamask.resize_masks(masks, height, width, threshold)


def _fake(masks: Tensor, height: int, width: int, threshold: float) -> tuple[Tensor, Tensor]:
    inside = torch.empty((masks.shape[0], height, width), dtype=torch.bool, device=masks.device)
    return inside, masks.new_empty((masks.shape[0], 2))


if COMPILED_DEVICES:
    torch.library.register_fake("pentamask::resize_masks", _fake)
    torch.library.register_autograd("pentamask::resize_masks", refuse_gradient)
