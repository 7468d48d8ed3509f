"""Non-maximum suppression: YOLACT's fast ones, and the greedy one.

K: classes without background; n: boxes.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, box_area, box_iou

# Boxes compared with the others at a time: bounds the memory.
_ROWS = 500
# With more boxes than this, as an untrained model has, most pairs are within no class's top-k: then each class compares
# its own.
_MANY = 3000


def fast_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float = 0.5, top_k: int = 200
) -> tuple[Tensor, Tensor, Tensor]:
    """Fast NMS (YOLACT, "Fast NMS"): every class at once, without a loop.

    Of each class the `top_k` best boxes are sorted by score; a box goes if its IoU with any box before it is above
    the threshold (the paper keeps a box if IoU < threshold, the released code if IoU <= threshold). Known defect: a
    removed box still removes others. So a few boxes are lost that greedy NMS keeps, but no box is kept that greedy
    NMS removes. A box may be returned for several classes.

    Args:
        boxes: (n, 4) xyxy in any unit, for all classes. Two boxes without area have no IoU: the second goes.
        scores: (K, n) of each class.
        iou_threshold: IoU above which the box of lower score goes.
        top_k: boxes of a class that are considered.

    Returns:
        index (m,) int64 into `boxes`, classes (m,) int64 and scores (m,), in descending order of score.
    """
    if torch.jit.is_tracing():
        return fast_nms_of_fixed_size(boxes, scores, iou_threshold, top_k)
    if len(boxes) > _MANY:
        keep = torch.zeros_like(scores, dtype=torch.bool)
        for row, best in zip(keep, _best(scores, top_k)):
            row[best] = True
            for _, second in _overlapping_pairs(boxes[best], iou_threshold):
                row[best[second]] = False
    else:
        order = scores.argsort(dim=1, descending=True, stable=True)
        ranks = torch.arange(len(boxes), device=order.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, ranks)
        keep = rank < top_k
        # The classes share the boxes' overlaps and differ only in the order: of a pair, the later one goes. If it is
        # within the top-k, so is the other.
        for first, second in _overlapping_pairs(boxes, iou_threshold):
            keep.scatter_(1, torch.where(rank[:, first] > rank[:, second], first, second), 0)
    classes, index = keep.nonzero(as_tuple=True)
    scores, by_score = scores[classes, index].sort(descending=True, stable=True)
    return index[by_score], classes[by_score], scores


def _best(scores: Tensor, top_k: int) -> Iterator[Tensor]:
    """For each row of (K, n) scores the first `top_k` of its stable order, without sorting the rest: (top_k,) int64."""
    least = scores.topk(min(top_k, scores.shape[1]), dim=1).values[:, -1:]
    for row, is_candidate in zip(scores, scores >= least):
        index = is_candidate.nonzero()[:, 0]
        yield index[row[index].argsort(descending=True, stable=True)[:top_k]]


def fast_nms_of_fixed_size(
    boxes: Tensor, scores: Tensor, iou_threshold: float = 0.5, top_k: int = 200
) -> tuple[Tensor, Tensor, Tensor]:
    """`fast_nms` in steps whose sizes do not depend on the number of boxes, for models that are traced or exported.

    Arguments and results are the same, except that a negative score takes a box out of its class, and that equal
    scores come in any order.
    """
    num_classes = scores.shape[0]
    # Always top_k boxes of a class; those that do not exist score -1.
    scores, index = F.pad(scores, (0, top_k), value=-1.0).topk(top_k, dim=1)
    best = F.pad(boxes, (0, 0, 0, top_k))[index]
    removed = (~(_overlaps_by_class(best) <= iou_threshold)).triu(diagonal=1).any(dim=1)
    scores, order = torch.where(removed, -1.0, scores).flatten().sort(descending=True)
    order = order[scores >= 0]
    classes = torch.arange(num_classes, device=boxes.device)[:, None].expand_as(index)
    return index.flatten()[order], classes.flatten()[order], scores[scores >= 0]


def _overlaps_by_class(boxes: Tensor) -> Tensor:
    """`box_iou` of each class's boxes with one another, (K, n, 4) -> (K, n, n); with vmap a program cannot be saved."""
    areas = box_area(boxes.flatten(0, 1)).view(boxes.shape[:2])
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=3)
    return shared / (areas[:, :, None] + areas[:, None] - shared)


def cross_class_fast_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float = 0.5, top_k: int = 200
) -> tuple[Tensor, Tensor, Tensor]:
    """Fast NMS over all classes at once: each box counts for its best class only; arguments as for `fast_nms`."""
    best, classes = scores.max(dim=0)
    index, _, best = fast_nms(boxes, best[None], iou_threshold, top_k)
    return index, classes[index], best


def greedy_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float = 0.5, score_threshold: float = 0.05
) -> tuple[Tensor, Tensor, Tensor]:
    """Ordinary NMS of each class, with the conventions of the authors' "traditional" one.

    Args:
        boxes: (n, 4) xyxy in pixels; a box ends one pixel after its second corner.
        scores: (K, n); only scores above `score_threshold` take part.
        iou_threshold: IoU from which, itself included, the box of lower score goes.

    Returns:
        As `fast_nms`.
    """
    classes, index = (scores > score_threshold).nonzero(as_tuple=True)
    scores = scores[classes, index]
    # In float64 the shift by which `batched_nms` separates the classes (Detectron2's wrapper works in float32) costs
    # no precision. `batched_nms` expects coordinates of at least 0.
    pixels = boxes.float().double()[index]
    pixels = pixels - torch.cat((pixels.new_zeros(1), pixels.flatten())).amin()
    pixels[:, 2:] += 1
    keep = batched_nms(pixels, scores.double(), classes, iou_threshold - 1e-7)
    return index[keep], classes[keep], scores[keep]


def _overlapping_pairs(boxes: Tensor, iou_threshold: float) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs of (n, 4) boxes whose IoU is above the threshold or undefined, as two index tensors (m,) at a time."""
    for start in range(0, len(boxes), _ROWS):
        overlaps = box_iou(boxes[start : start + _ROWS], boxes[start:])
        # The comparison is also false for NaN.
        first, second = (~(overlaps <= iou_threshold)).triu_(diagonal=1).nonzero(as_tuple=True)
        yield first + start, second + start
