"""Mask R-CNN from inside: proposals, RoIAlign's grid and samples, the small mask and its pasting (Figures 3 and 4)."""

import math
from typing import TYPE_CHECKING, Any

import torch
from detectron2.layers import ROIAlign
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes, Instances
from torch import Tensor

from pentamask.explanation import (
    BoxLevels,
    Explanation,
    InstanceMaps,
    Points,
    best,
    check_evaluating,
    described,
    recorded,
)

from .poolers import ROIAlignMax

if TYPE_CHECKING:
    from .meta_arch import MaskRCNN


@torch.no_grad()
def explain(
    model: "MaskRCNN", batched_inputs: list[dict], *, max_instances: int = 5, min_score: float = 0.0
) -> list[Explanation]:
    """The way from proposals to the masks of the best instances.

    Args:
        batched_inputs: as those of `forward`, in inference.
        max_instances, min_score: how many instances, and the lowest score of one.

    Returns:
        Per image, with masks of S x S (28 x 28 in the paper) in an image of H x W:
        "proposals": `BoxLevels`, the RPN's boxes, their objectness, and the feature map they are pooled from;
        "sampling": `Points`, where the mask branch's RoIAlign samples its feature map, in a grid of cells; not with
        RoIPool and RoIWarp;
        "masks": `InstanceMaps`, one of (n, S, S) probabilities;
        "pasted": `InstanceMaps`, two of (n, H, W): the same resized into the box, and what is above 0.5.
    """
    check_evaluating(model)
    heads = model.roi_heads
    with recorded(model.proposal_generator) as (calls,):
        results = model.inference(batched_inputs, do_postprocess=False)
    proposals, _ = calls[0][1]
    return [_explain_image(heads, p, x, max_instances, min_score) for p, x in zip(proposals, results)]


def _explain_image(
    heads: Any, proposals: Instances, result: Instances, max_instances: int, min_score: float
) -> Explanation:
    pooler = getattr(heads, "mask_pooler", None) or heads.pooler
    names = getattr(heads, "mask_in_features", None) or heads.in_features
    chosen = best(result.scores, max_instances, min_score)
    instances, masks = described(result, chosen), result.pred_masks[chosen, 0]
    box_pooler = getattr(heads, "box_pooler", pooler)
    parts: Explanation = {
        "proposals": BoxLevels(
            "Proposals, and the feature map that each is pooled from",
            proposals.proposal_boxes.tensor,
            proposals.objectness_logits.sigmoid(),
            _levels(box_pooler, proposals.proposal_boxes),
            getattr(heads, "box_in_features", names),
        )
    }
    points = sampling_points(pooler, instances.pred_boxes)
    if points is not None:
        levels = _levels(pooler, instances.pred_boxes)
        parts["sampling"] = Points(
            "RoIAlign: cells and sampling points of the mask branch",
            instances,
            points,
            levels=[level.expand(len(p)) for level, p in zip(levels, points)],
            level_names=names,
            grid=tuple(pooler.output_size),
        )
    parts["masks"] = InstanceMaps("Mask as the branch gives it", instances, [masks], ["mask"])
    size = result.image_size
    pasted = paste_masks_in_image(masks, instances.pred_boxes.tensor, size, threshold=-1).float() / 255
    parts["pasted"] = InstanceMaps(
        "Mask pasted into the image",
        instances,
        [pasted, (pasted > 0.5).float()],
        ["resized to its box", "above 0.5"],
        (float(size[0]), float(size[1])),
    )
    return parts


def _levels(pooler: ROIPooler, boxes: Boxes) -> Tensor:
    """Index of the feature map that `pooler` takes for each of n boxes: (n,) int64."""
    if len(pooler.level_poolers) == 1:
        return torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    limits = pooler.min_level, pooler.max_level
    return assign_boxes_to_levels([boxes], *limits, pooler.canonical_box_size, pooler.canonical_level)


def sampling_points(pooler: ROIPooler, boxes: Boxes) -> list[Tensor] | None:
    """Where RoIAlign samples the features of each box: (P, 2) in pixels of the input, row by row.

    None for poolers that take the features as they are.
    """
    points = []
    for box, level in zip(boxes.tensor, _levels(pooler, boxes).tolist()):
        layer = pooler.level_poolers[level]
        if not isinstance(layer, (ROIAlign, ROIAlignMax)):
            return None
        shift = 0.0 if getattr(layer, "aligned", True) else 0.5 / layer.spatial_scale
        ratio = layer.sampling_ratio if isinstance(layer, ROIAlign) else 2
        columns, rows = pooler.output_size[1], pooler.output_size[0]
        x = shift + _samples(box[0], box[2], columns, ratio, layer.spatial_scale)
        y = shift + _samples(box[1], box[3], rows, ratio, layer.spatial_scale)
        points.append(torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))], dim=1))
    return points


def _samples(low: Tensor, high: Tensor, cells: int, ratio: int, scale: float) -> Tensor:
    """Samples along one side of a box, (cells * ratio,); as in RoIAlign, 0 means one for each pixel of the features."""
    count = cells * (ratio or max(1, math.ceil(float(high - low) * scale / cells)))
    return low + (torch.arange(count, device=low.device) + 0.5) * (high - low) / count
