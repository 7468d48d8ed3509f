"""Losses of FCOS."""

import torch
from torch import Tensor

from pentamask.common import check_choice


def ctrness_targets(distances: Tensor) -> Tensor:
    """Centre-ness (FCOS, eq. 3) of (P, 4) left, top, right, bottom distances: (P,) in [0, 1]."""
    horizontal, vertical = distances[:, [0, 2]], distances[:, [1, 3]]
    ratio = horizontal.amin(dim=1) / horizontal.amax(dim=1) * (vertical.amin(dim=1) / vertical.amax(dim=1))
    return ratio.sqrt()


def smoothed_ious(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of boxes around the same points, with one added to intersection and union as in the released code.

    Args:
        pred, target: (P, 4) left, top, right, bottom distances in strides. The added one makes the result depend
            on this unit.

    Returns:
        IoU and GIoU, (P,) each.
    """
    inner, outer = torch.minimum(pred, target), torch.maximum(pred, target)
    intersection, enclosing = _area(inner), _area(outer)
    union = _area(pred) + _area(target) - intersection
    iou = (intersection + 1) / (union + 1)
    return iou, iou - (enclosing - union) / enclosing


def location_loss(iou: Tensor, giou: Tensor, loss_type: str) -> Tensor:
    """Per-location box loss: 1 - GIoU ("giou"), -log IoU ("iou") or 1 - IoU ("linear_iou")."""
    if loss_type == "giou":
        return 1 - giou
    if loss_type == "iou":
        return -iou.log()
    check_choice("MODEL.FCOS.LOC_LOSS_TYPE", loss_type, ("giou", "iou", "linear_iou"))
    return 1 - iou


def _area(distances: Tensor) -> Tensor:
    return (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3])
