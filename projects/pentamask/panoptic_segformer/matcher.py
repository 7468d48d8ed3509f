"""Hungarian matching between queries and ground-truth things of one image."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou


@dataclass(frozen=True)
class Weights:
    """Weights of the class, L1, GIoU and dice terms, in the losses and in the matching."""

    cls: float
    l1: float
    giou: float
    dice: float


@dataclass
class Things:
    """The K ground-truth things of an image.

    Attributes:
        classes: (K,) int64.
        boxes: (K, 4) xyxy in pixels.
        masks: (K, H, W) at the size of the image.
    """

    classes: Tensor
    boxes: Tensor
    masks: Tensor

    @property
    def scale(self) -> Tensor:
        """(W, H, W, H): pixels of the unit in which boxes are predicted."""
        height, width = self.masks.shape[-2:]
        return self.boxes.new_tensor([width, height, width, height])


@torch.no_grad()
def match(
    logits: Tensor, boxes: Tensor, things: Things, weights: Weights, mask_costs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The assignment of least cost.

    Args:
        logits: (Q, T) class logits.
        boxes: (Q, 4) cxcywh in 0-1.
        things: ground truth.
        weights: of the terms.
        mask_costs: (Q, K), added weighted by `weights.dice` if given.

    Returns:
        Indices of queries, ascending, and of their things: int64, min(Q, K) each.
    """
    gt_boxes = box_convert(things.boxes, "xyxy", "cxcywh") / things.scale
    pixel_boxes = box_convert(boxes * things.scale, "cxcywh", "xyxy")
    costs = weights.cls * _class_costs(logits)[:, things.classes]
    costs = costs + weights.l1 * torch.cdist(boxes, gt_boxes.to(boxes.dtype), p=1)
    costs = costs - weights.giou * generalized_box_iou(pixel_boxes, things.boxes.to(boxes.dtype))
    if mask_costs is not None:
        costs = costs + weights.dice * mask_costs
    if not costs.isfinite().all():
        raise FloatingPointError("The cost of matching queries with things is not finite: training has diverged.")
    from scipy.optimize import linear_sum_assignment  # takes longer to import than all of pentamask

    queries, objects = linear_sum_assignment(costs.cpu())
    return torch.as_tensor(queries, device=logits.device), torch.as_tensor(objects, device=logits.device)


def _class_costs(logits: Tensor) -> Tensor:
    """Focal loss of calling a query a member of each class less that of not doing so (Deformable DETR): (Q, T)."""
    p = logits.sigmoid()
    return 0.25 * (1 - p) ** 2 * -(p + 1e-12).log() - 0.75 * p**2 * -(1 - p + 1e-12).log()


def dice_costs(masks: Tensor, gt_masks: Tensor) -> Tensor:
    """1 - dice of all pairs: (Q, h, w) and (K, h, w) mask values -> (Q, K); the 1e-3 are the released code's."""
    masks, gt_masks = masks.flatten(1), gt_masks.flatten(1)
    squares = (masks**2).sum(dim=1)[:, None] + 1e-3 + (gt_masks**2).sum(dim=1) + 1e-3
    return 1 - 2 * masks @ gt_masks.T / squares
