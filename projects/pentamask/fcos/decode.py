"""From raw predictions to detections: threshold, top-k, boxes, NMS."""

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
    """Set `top_feat` (n, D) of the detections of each image, see `top_features`.

    Args:
        detections: with locations and fpn_levels.
        features, top_module: see `top_features`.
        strides: of the levels.
    """
    levels = torch.cat([found.fpn_levels for found in detections])
    images = torch.cat([torch.full_like(found.fpn_levels, i) for i, found in enumerate(detections)])
    points = torch.cat([found.locations for found in detections])
    cells, start = torch.zeros_like(levels), 0
    for level, (x, stride) in enumerate(zip(features, strides)):
        count, _, height, width = x.shape
        columns, rows = (points / stride).long().unbind(dim=1)
        cells = torch.where(levels == level, start + (images * height + rows) * width + columns, cells)
        start += count * height * width
    values = top_features(features, top_module, cells)
    for found, part in zip(detections, values.split([found.fpn_levels.shape[0] for found in detections])):
        found.top_feat = part


def top_features(features: list[Tensor], top_module: nn.Module, cells: Tensor) -> Tensor:
    """What `top_module` makes of `features` at some cells; a 3x3 convolution is computed there only.

    Args:
        features: (N, C, H, W) of each level.
        top_module: (N, C, H, W) -> (N, D, H, W).
        cells: (P,) int64, number of the cell: level by level, in each level image by image, in each image row by row.

    Returns:
        (P, D).
    """
    conv: Any = top_module
    # What hooks the module wants whole maps.
    local = isinstance(conv, nn.Conv2d) and not (conv._forward_hooks or conv._forward_pre_hooks)
    if local and (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((3, 3), (1, 1), (1, 1), 1):
        return F.conv2d(_patches(features, cells, 1), conv.weight, conv.bias).flatten(1)
    return _patches([top_module(x) for x in features], cells, 0).flatten(1)


def _patches(maps: list[Tensor], cells: Tensor, reach: int) -> Tensor:
    """(P, C, 2 * reach + 1, 2 * reach + 1) of the levels' maps around the cells, 0 outside."""
    offsets = torch.arange(-reach, reach + 1, device=cells.device)
    cells = cells[:, None, None]
    index = torch.zeros_like(cells + offsets[:, None] + offsets)
    inside = torch.zeros_like(index, dtype=torch.bool)
    start = 0
    for x in maps:
        count, _, height, width = x.shape
        end = start + count * height * width
        place = cells - start
        lines = place // width  # without %, which ONNX's exporter does not know for sizes
        columns, rows = place - lines * width + offsets, lines - lines // height * height + offsets[:, None]
        here = (cells >= start) & (cells < end) & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        index = torch.where(here, cells + offsets[:, None] * width + offsets, index)
        inside = inside | here
        start = end
    tokens = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in maps])
    return tokens[index].masked_fill(~inside[..., None], 0).permute(0, 3, 1, 2)


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
