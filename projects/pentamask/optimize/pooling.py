"""Detectron2's RoI poolers by one call of `pentamask.ops.roi_align`."""

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor

from pentamask.ops import has_compiled_ops, is_exporting
from pentamask.ops.roi_align import roi_align_levels


def can_pool_at_once(pooler: ROIPooler, maps: list[Tensor]) -> bool:
    """Whether `pool_at_once` gives what the pooler gives: in inference on a CPU, for RoIAlign with square cells."""
    levels = pooler.level_poolers
    return (
        has_compiled_ops()
        and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in maps)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in maps))
        and not is_exporting()
        and all(type(level) is ROIAlign for level in levels)
        and pooler.output_size[0] == pooler.output_size[1]
        and len({(level.output_size, level.sampling_ratio, level.aligned) for level in levels}) == 1
    )


def pool_at_once(pooler: ROIPooler, maps: list[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
    """As `pentamask.graph.pool_levels`, which goes level by level, where `can_pool_at_once`.

    Args:
        pooler: whose settings to use.
        maps: (N, C, H, W) of each level.
        rois: (R, 5) image index and box, XYXY, in pixels of the images.
        levels: (R,) int64, the region's map.

    Returns:
        (R, C, S, S) in `torch.channels_last`.
    """
    first, scales = pooler.level_poolers[0], [level.spatial_scale for level in pooler.level_poolers]
    side = pooler.output_size[0]
    return roi_align_levels(maps, rois.to(maps[0]), levels, scales, side, first.sampling_ratio, first.aligned)
