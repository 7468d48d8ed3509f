"""From raw predictions to detections: threshold, top-k, boxes, NMS."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn


def decode_level(
    locations: Tensor,
    logits: Tensor,
    reg: Tensor,
    ctrness: Tensor,
    *,
    stride: int,
    level: int,
    image_size: tuple[int, int],
    score_thresh: float,
    thresh_with_ctr: bool,
    topk: int,
) -> Instances:
    """Candidates of one level of one image, in no particular order.

    Args:
        locations: (R, 2) image points of the level's cells, in pixels.
        logits: (K, H, W) class logits.
        reg: (4, H, W) distances in strides.
        ctrness: (1, H, W) box quality logit.
        image_size: (height, width) of the unpadded image.
        score_thresh: candidates need a class probability, or with `thresh_with_ctr` its product with the box
            quality, above it.
        topk: keep this many candidates of the highest product.

    Returns:
        `Instances` with pred_boxes (not clipped), scores = sqrt(probability * quality), pred_classes, locations and
        fpn_levels.
    """
    probs = logits.flatten(1).t().sigmoid()
    scores = probs * ctrness.flatten(1).t().sigmoid()
    index, classes = ((scores if thresh_with_ctr else probs) > score_thresh).nonzero(as_tuple=True)
    scores = scores[index, classes]
    if len(scores) > topk:
        scores, keep = scores.topk(topk, sorted=False)
        index, classes = index[keep], classes[keep]

    points = locations[index]
    distances = reg.flatten(1).t()[index] * stride
    result = Instances(image_size)
    result.pred_boxes = Boxes(torch.cat((points - distances[:, :2], points + distances[:, 2:]), dim=1))
    result.scores = scores.sqrt()
    result.pred_classes = classes
    result.locations = points
    result.fpn_levels = torch.full_like(classes, level)
    return result


def add_top_features(
    detections: list[Instances], features: list[Tensor], strides: list[int], top_module: nn.Module
) -> None:
    """Set `top_feat` (n, D) of each image's detections to their `top_features`."""
    values = top_features(detections, features, strides, top_module)
    # len() would be a constant of a traced model.
    for found, part in zip(detections, values.split([found.fpn_levels.shape[0] for found in detections])):
        found.top_feat = part


def top_features(
    detections: Sequence[Any], features: list[Tensor], strides: list[int], top_module: nn.Module
) -> Tensor:
    """What `top_module` makes of `features` at the detections' cells: (n, D), n in all images.

    A 3x3 convolution is computed at these cells only.

    Args:
        detections: of each image, with locations and fpn_levels.
        features: (N, C, H, W) of each level.
        strides: of the levels.
        top_module: (N, C, H, W) -> (N, D, H, W).
    """
    conv: Any = top_module
    # What hooks the module wants whole maps.
    local = isinstance(conv, nn.Conv2d) and not (conv._forward_hooks or conv._forward_pre_hooks)
    if local and (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((3, 3), (1, 1), (1, 1), 1):
        patches = [_patches([x[i] for x in features], strides, found, 1) for i, found in enumerate(detections)]
        values = F.conv2d(torch.cat(patches), conv.weight, conv.bias)
    else:
        maps = [top_module(x) for x in features]
        values = torch.cat([_patches([x[i] for x in maps], strides, found, 0) for i, found in enumerate(detections)])
    return values.flatten(1)


def _patches(maps: list[Tensor], strides: list[int], detections: Any, reach: int) -> Tensor:
    """(n, C, 2 * reach + 1, 2 * reach + 1) of the levels' (C, H, W) maps around the detections' cells, 0 outside."""
    levels, side = detections.fpn_levels[:, None, None], 2 * reach + 1
    offsets = torch.arange(-reach, reach + 1, device=levels.device)
    index = torch.zeros(levels.shape[0], side, side, dtype=torch.int64, device=levels.device)
    inside = torch.zeros_like(index, dtype=torch.bool)
    start = 0
    for level, (x, stride) in enumerate(zip(maps, strides)):
        height, width = x.shape[1:]
        columns, rows = (detections.locations / stride).long().unbind(dim=1)  # of the cells around these points
        columns, rows = columns[:, None, None] + offsets, rows[:, None, None] + offsets[:, None]
        here = (levels == level) & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        index = torch.where(here, start + rows * width + columns, index)
        inside = inside | here
        start += height * width
    cells = torch.cat([x.flatten(1).t() for x in maps])
    return cells[index].masked_fill(~inside[..., None], 0).permute(0, 3, 1, 2)


def select_detections(candidates: Instances, *, nms_thresh: float, topk: int) -> Instances:
    """Class-wise NMS, then the `topk` best; candidates that tie with the last of them stay too.

    Args:
        candidates: of all levels of one image, with pred_boxes, scores, pred_classes.
        nms_thresh: IoU above which the lower score goes; <= 0 for no NMS.
        topk: <= 0 for no limit.

    Returns:
        The detections, in descending order of score if NMS ran.
    """
    if nms_thresh > 0:
        # Boxes are always float32, and NMS needs boxes and scores of one type.
        keep = batched_nms(candidates.pred_boxes.tensor, candidates.scores.float(), candidates.pred_classes, nms_thresh)
        candidates = candidates[keep]
    if 0 < topk < len(candidates):
        last = candidates.scores.topk(topk).values[-1]
        candidates = candidates[candidates.scores >= last]
    return candidates
