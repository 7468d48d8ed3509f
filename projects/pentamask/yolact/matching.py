"""Which prior box learns which object.

M: objects of an image; P: its prior boxes. Boxes are relative: 0 to 1 over the network input.
"""

import torch
from detectron2.structures import Boxes, pairwise_ioa
from torch import Tensor
from torchvision.ops import box_convert, box_iou

NEUTRAL = -1
_FORCED = 2.0  # an IoU above any other


@torch.no_grad()
def match_priors(
    boxes: Tensor,
    classes: Tensor,
    crowd_boxes: Tensor,
    priors: Tensor,
    *,
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
    crowd_overlap: float = 0.7,
) -> tuple[Tensor, Tensor]:
    """Match prior boxes with the objects of one image (as in the released code).

    A prior belongs to the object of the highest IoU. In addition, every object gets one prior of its own, the pairs of
    highest IoU first, so that no two objects share one.

    Args:
        boxes: (M, 4) xyxy.
        classes: (M,) int64, 0-based.
        crowd_boxes: (any, 4) xyxy, regions where nothing is known.
        priors: (P, 4), (cx, cy, w, h).
        positive_iou, negative_iou: below the second a prior is background, between the two neutral.
        crowd_overlap: a prior that is not positive is neutral if more than this share of its area is in a crowd.

    Returns:
        labels (P,) int64: class + 1, 0 background, -1 neutral; index (P,) int64 of the object of each prior, also of
        those that are not positive (0 without objects).
    """
    corners = box_convert(priors, "cxcywh", "xyxy")
    if len(boxes) == 0:
        labels, index = classes.new_zeros(len(priors)), classes.new_zeros(len(priors))
    else:
        overlaps = box_iou(boxes, corners)
        best, index = overlaps.max(dim=0)
        _force_matches(overlaps, best, index)
        labels = classes[index] + 1
        labels[best < positive_iou] = NEUTRAL
        labels[best < negative_iou] = 0
    if len(crowd_boxes) > 0:
        in_crowd = pairwise_ioa(Boxes(crowd_boxes), Boxes(corners)).amax(dim=0) > crowd_overlap
        labels[in_crowd & (labels <= 0)] = NEUTRAL
    return labels, index


def _force_matches(overlaps: Tensor, best: Tensor, index: Tensor) -> None:
    """Give every object a prior, in place.

    Args:
        overlaps: (M, P) IoUs; modified in place.
        best: (P,) IoU of each prior's object.
        index: (P,) the object.
    """
    for _ in range(len(overlaps)):
        values, prior_of = overlaps.max(dim=1)
        obj = values.argmax()
        prior = prior_of[obj]
        overlaps[obj] = -1
        overlaps[:, prior] = -1
        best[prior] = _FORCED
        index[prior] = obj
