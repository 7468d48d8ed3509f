"""Selecting candidates in steps whose sizes depend on no value, except where NMS ends."""

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms


def top_candidates(scores: Tensor, topk: int, missing: float = -1.0) -> tuple[Tensor, Tensor]:
    """The `topk` largest of (n,) scores; a score of `missing`, the lowest possible, says that there is none.

    Returns:
        scores (topk,), descending, `missing` where there are fewer; their index (topk,) int64 into `scores`, there any
        valid one.
    """
    found, index = F.pad(scores, (0, topk), value=missing).topk(topk)
    return found, index.clamp(max=scores.shape[0] - 1)


def class_wise_nms(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """As `torchvision.ops.batched_nms`, which decides by the number of boxes how it works.

    Args:
        boxes: (n, 4) XYXY.
        scores: (n,).
        classes: (n,), boxes of different classes do not compete.
        threshold: IoU above which the box of lower score goes.

    Returns:
        Index of what stays, in descending order of score.
    """
    largest = F.pad(boxes, (0, 0, 0, 1)).max()  # with a row of zeros, for there may be no box
    shifted = boxes + classes.to(boxes.dtype)[:, None] * (largest + 1)
    return nms(shifted, scores, threshold)
