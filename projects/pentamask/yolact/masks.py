"""Masks from prototypes, used in training and inference.

k: prototypes of h x w pixels; n: objects. Boxes are relative, xyxy.
"""

import torch
from torch import Tensor


def assemble_masks(prototypes: Tensor, coefficients: Tensor) -> Tensor:
    """Mask probabilities (n, h, w) from prototypes (k, h, w) and coefficients (n, k) (YOLACT, eq. 1)."""
    return torch.einsum("khw,nk->nhw", prototypes, coefficients).sigmoid()


def crop_masks(masks: Tensor, boxes: Tensor) -> Tensor:
    """Set (n, h, w) masks to 0 outside their boxes (n, 4), which are one pixel larger here on each side."""
    height, width = masks.shape[1:]
    x1, x2 = _padded_range(boxes[:, 0], boxes[:, 2], width)
    y1, y2 = _padded_range(boxes[:, 1], boxes[:, 3], height)
    cols = torch.arange(width, device=masks.device, dtype=boxes.dtype)[None, None]
    rows = torch.arange(height, device=masks.device, dtype=boxes.dtype)[None, :, None]
    return masks * ((cols >= x1) & (cols < x2) & (rows >= y1) & (rows < y2))


def _padded_range(start: Tensor, end: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Two (n, 1, 1) tensors in pixels, not rounded."""
    low, high = torch.minimum(start, end) * size - 1, torch.maximum(start, end) * size + 1
    return low.clamp(min=0)[:, None, None], high.clamp(max=size)[:, None, None]
