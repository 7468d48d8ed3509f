"""Prior boxes, and boxes as offsets from them (section 2.2 of SSD, arXiv 1512.02325, which YOLACT inherits).

P: prior boxes of an image. Boxes are relative: 0 to 1 over the square network input.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import sqrt

import numpy as np
import torch
from torch import Tensor

# Factors of the centre and size offsets. Detectron2's `Box2BoxTransform` has them too, but decodes in float32 only
# and limits the size.
_CENTER_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2


def prior_boxes(
    level_sizes: tuple[tuple[int, int], ...],
    scales: tuple[tuple[float, ...], ...],
    aspect_ratios: tuple[float, ...],
    image_size: int,
    square: bool,
) -> Tensor:
    """Prior boxes of all levels: level by level, row by row, scale by scale, ratio by ratio. Nothing is clipped.

    Args:
        level_sizes: (height, width) of each level's feature map. Centres divide the image evenly by it.
        scales: box sides in input pixels, one or more per level.
        aspect_ratios: width / height.
        image_size: side of the network input in pixels.
        square: take the width for the height, as the first released models do by mistake.

    Returns:
        (P, 4) float64, (cx, cy, w, h), not to be written to.
    """
    return torch.from_numpy(_prior_boxes(level_sizes, scales, aspect_ratios, image_size, square))


# Arrays, because a tensor that is made while the model is traced must not be used afterwards.
@lru_cache(maxsize=8)
def _prior_boxes(
    level_sizes: tuple[tuple[int, int], ...],
    scales: tuple[tuple[float, ...], ...],
    aspect_ratios: tuple[float, ...],
    image_size: int,
    square: bool,
) -> np.ndarray:
    levels = []
    for (height, width), level_scales in zip(level_sizes, scales):
        pairs = [(s * sqrt(r), s * sqrt(r) if square else s / sqrt(r)) for s in level_scales for r in aspect_ratios]
        sides = np.array(pairs) / image_size
        cy, cx = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        centers = np.stack(np.meshgrid(cx, cy), axis=-1)[:, :, None]
        level = np.empty((height, width, len(sides), 4))
        level[..., :2], level[..., 2:] = centers, sides
        levels.append(level.reshape(-1, 4))
    return np.concatenate(levels)


def decode_boxes(loc: Tensor, priors: Tensor) -> Tensor:
    """Boxes (..., P, 4) xyxy, not clipped, from offsets `loc` (..., P, 4) and `priors` (P, 4) (cx, cy, w, h)."""
    centers = priors[:, :2] + loc[..., :2] * _CENTER_VARIANCE * priors[:, 2:]
    sizes = priors[:, 2:] * torch.exp(loc[..., 2:] * _SIZE_VARIANCE)
    corners = centers - sizes / 2
    return torch.cat((corners, corners + sizes), dim=-1)


def encode_boxes(boxes: Tensor, priors: Tensor) -> Tensor:
    """The offsets (P, 4) that `decode_boxes` turns into `boxes` (P, 4) xyxy of positive size."""
    centers = ((boxes[:, :2] + boxes[:, 2:]) / 2 - priors[:, :2]) / (_CENTER_VARIANCE * priors[:, 2:])
    sizes = torch.log((boxes[:, 2:] - boxes[:, :2]) / priors[:, 2:]) / _SIZE_VARIANCE
    return torch.cat((centers, sizes), dim=1)


def check_anchors(scales: Sequence[Sequence[float]], num_levels: int) -> None:
    """Raise `ValueError` unless every level has scales, and the same number of them, as the shared head needs."""
    if len(scales) != num_levels or len({len(level) for level in scales}) != 1:
        raise ValueError(
            f"MODEL.YOLACT.ANCHOR_SCALES needs {num_levels} lists of equal length, one per level; it is {list(scales)}."
        )
