"""Masks at the size of the input, for files that are to give them ready."""

import torch
import torch.nn.functional as F
from torch import Tensor


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Probabilities (n, R, R) within their boxes (n, 4), XYXY in pixels -> (n, height, width) bool, at least 0.5.

    As in Detectron2's `paste_masks_in_image`, boxes are cut off at the border first.
    """
    low = boxes.clamp(min=0)
    columns = _positions(low[:, 0], low[:, 2], width)
    rows = _positions(low[:, 1], low[:, 3], height)
    shape = (-1, height, width)
    grid = torch.stack((columns[:, None].expand(shape), rows[:, :, None].expand(shape)), dim=3)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] >= 0.5


def _positions(start: Tensor, end: Tensor, size: int) -> Tensor:
    """Centres of `size` pixels, (n, size), in boxes from `start` to `end`, (n,) each, that reach from -1 to 1."""
    start, end = start.clamp(max=size), end.clamp(max=size)
    centres = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    # A box without extent has no pixels.
    return (centres - start[:, None]) / (end - start)[:, None].clamp(min=1e-6) * 2 - 1


def resize_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Maps (n, h, w) of the whole picture -> (n, height, width) bool, above 0.5."""
    return F.interpolate(masks[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0] > 0.5
