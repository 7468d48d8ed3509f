"""Pooling of RoIs from the feature levels that they are assigned to."""

from collections.abc import Iterable, Sequence

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn
from torchvision.ops import box_area


def pool_levels(poolers: Iterable[nn.Module], features: Sequence[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
    """
    Args:
        poolers: of each level: (N, C, H, W) and (r, 5) RoIs -> (r, C, S, S).
        features: (N, C, H, W) of each level.
        rois: (R, 5) image index and box, XYXY in pixels.
        levels: (R,) int64, index of each RoI's level.

    Returns:
        (R, C, S, S), in the order of the RoIs.
    """
    pooled = None
    for level, (feature, pooler) in enumerate(zip(features, poolers)):
        index = (levels == level).nonzero()[:, 0]
        part = pooler(feature, rois[index])
        if pooled is None:
            pooled = part.new_zeros(rois.shape[0], *part.shape[1:])
        pooled = pooled.index_put((index,), part)
    assert pooled is not None
    return pooled


def area_levels(pooler: ROIPooler, boxes: Tensor) -> Tensor:
    """The levels (R,) int64, from 0, that Detectron2's pooler assigns boxes (R, 4) to (FPN, eq. 1)."""
    sides = box_area(boxes).sqrt()
    levels = torch.floor(pooler.canonical_level + torch.log2(sides / pooler.canonical_box_size + 1e-8))
    return levels.clamp(pooler.min_level, pooler.max_level).long() - pooler.min_level
