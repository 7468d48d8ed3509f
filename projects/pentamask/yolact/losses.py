"""The losses of YOLACT and YOLACT++ (YOLACT, "Loss"; details as in the released code).

N: images; P: prior boxes of an image; K: classes without background; M: objects of an image; k prototypes of h x w
pixels. Boxes are relative, xyxy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor

from pentamask.common import mean_count

from .anchors import encode_boxes
from .mask_networks import MaskIoUNet
from .masks import assemble_masks, crop_masks
from .matching import match_priors
from .prediction_head import HeadOutputs


@dataclass
class Targets:
    """Ground truth of one image.

    Attributes:
        boxes: (M, 4).
        classes: (M,) int64, 0-based.
        masks: (M, H, W) of zeros and ones, over the network input at any resolution.
        crowd_boxes: (any, 4) regions where nothing is known.
    """

    boxes: Tensor
    classes: Tensor
    masks: Tensor
    crowd_boxes: Tensor


@dataclass
class Matches:
    """What the prior boxes of a batch learn.

    Attributes:
        labels: (N, P) int64, see `match_priors`.
        index: (N, P) int64 of the object in its image.
    """

    labels: Tensor
    index: Tensor

    @property
    def positive(self) -> Tensor:
        """(N, P) bool."""
        return self.labels > 0


class YolactLoss:
    """Matching and all losses, with their settings."""

    @configurable
    def __init__(
        self,
        *,
        positive_iou: float = 0.5,
        negative_iou: float = 0.4,
        crowd_overlap: float = 0.7,
        negative_ratio: int = 3,
        masks_to_train: int = 100,
        mask_iou_min_area: int = 25,
        box_weight: float = 1.5,
        class_weight: float = 1.0,
        mask_weight: float = 6.125,
        semantic_weight: float = 1.0,
        mask_iou_weight: float = 25.0,
    ) -> None:
        """
        Args:
            positive_iou, negative_iou, crowd_overlap: see `match_priors`.
            negative_ratio: see `hard_negatives`.
            masks_to_train: positives of an image that the mask loss takes at most, chosen at random.
            mask_iou_min_area: masks that train the mask IoU are larger than this, in prototype pixels.
            box_weight, class_weight, mask_weight, semantic_weight, mask_iou_weight: factors of the losses.
        """
        self.matching = {
            "positive_iou": positive_iou,
            "negative_iou": negative_iou,
            "crowd_overlap": crowd_overlap,
        }
        self.negative_ratio = negative_ratio
        self.masks_to_train = masks_to_train
        self.mask_iou_min_area = mask_iou_min_area
        self.box_weight, self.class_weight, self.mask_weight = box_weight, class_weight, mask_weight
        self.semantic_weight, self.mask_iou_weight = semantic_weight, mask_iou_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.YOLACT
        return {
            "positive_iou": node.POSITIVE_IOU,
            "negative_iou": node.NEGATIVE_IOU,
            "crowd_overlap": node.CROWD_OVERLAP,
            "negative_ratio": node.NEGATIVE_RATIO,
            "masks_to_train": node.MASKS_TO_TRAIN,
            "mask_iou_min_area": node.MASK_IOU.MIN_AREA,
            "box_weight": node.BOX_LOSS_WEIGHT,
            "class_weight": node.CLASS_LOSS_WEIGHT,
            "mask_weight": node.MASK_LOSS_WEIGHT,
            "semantic_weight": node.SEMANTIC_LOSS_WEIGHT,
            "mask_iou_weight": node.MASK_IOU.LOSS_WEIGHT,
        }

    def match(self, priors: Tensor, targets: list[Targets]) -> Matches:
        """Match the priors (P, 4) (cx, cy, w, h) with the objects of each image."""
        pairs = [match_priors(t.boxes, t.classes, t.crowd_boxes, priors, **self.matching) for t in targets]
        return Matches(*(torch.stack(parts) for parts in zip(*pairs)))

    def __call__(
        self,
        outputs: HeadOutputs,
        prototypes: Tensor,
        semantic_logits: Tensor,
        priors: Tensor,
        targets: list[Targets],
        mask_iou_net: MaskIoUNet | None = None,
    ) -> dict[str, Tensor]:
        """
        Args:
            outputs: of the head.
            prototypes: (N, k, h, w).
            semantic_logits: (N, K, h', w'), of training's additional layer.
            priors: (P, 4), (cx, cy, w, h).
            targets: of each image.
            mask_iou_net: of YOLACT++.

        Returns:
            The authors' terms: B (boxes), C (classes), M (masks), S (semantic) and with `mask_iou_net` I (mask IoU).
            All but S are divided by the number of positives in the batches of all workers, see `mean_count`.
        """
        matches = self.match(priors, targets)
        mask_loss, mask_iou_loss = self._mask_losses(outputs, prototypes, matches, targets, mask_iou_net)
        num_positives = mean_count(matches.positive.sum())
        losses = {
            "B": self.box_weight * box_loss(outputs.loc, priors, matches, targets) / num_positives,
            "C": self.class_weight * class_loss(outputs.logits, matches, self.negative_ratio) / num_positives,
            "M": self.mask_weight * mask_loss / num_positives,
            "S": self.semantic_weight * semantic_loss(semantic_logits, targets),
        }
        if mask_iou_loss is not None:
            losses["I"] = self.mask_iou_weight * mask_iou_loss / num_positives
        return losses

    def _mask_losses(
        self,
        outputs: HeadOutputs,
        prototypes: Tensor,
        matches: Matches,
        targets: list[Targets],
        mask_iou_net: MaskIoUNet | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Sums over the positives of the mask loss and, given the network for it, of the mask IoU loss."""
        total = prototypes.new_zeros(())
        quality_inputs = []
        for i, target in enumerate(targets):
            chosen = matches.positive[i].nonzero()[:, 0]
            count = len(chosen)
            if count > self.masks_to_train:
                chosen = chosen[torch.randperm(count, device=chosen.device)[: self.masks_to_train]]
            objects = matches.index[i, chosen]
            gt_masks = resize_masks(target.masks, prototypes.shape[-2:])[objects]
            pred = assemble_masks(prototypes[i], outputs.coefficients[i, chosen])
            pred = crop_masks(pred, target.boxes[objects])
            total = total + mask_loss(pred, gt_masks, target.boxes[objects]).sum() * (count / max(len(chosen), 1))
            large = gt_masks.sum(dim=(1, 2)) > self.mask_iou_min_area
            quality_inputs.append((pred[large], gt_masks[large], target.classes[objects][large]))
        if mask_iou_net is None:
            return total, None
        return total, mask_iou_loss(mask_iou_net, *(torch.cat(parts) for parts in zip(*quality_inputs)))


def box_loss(loc: Tensor, priors: Tensor, matches: Matches, targets: list[Targets]) -> Tensor:
    """Sum of the smooth L1 loss (beta 1) of the offsets `loc` (N, P, 4) over the positives."""
    loss = loc.new_zeros(())
    for pred, positive, index, target in zip(loc, matches.positive, matches.index, targets):
        wanted = encode_boxes(target.boxes[index[positive]], priors[positive])
        loss = loss + F.smooth_l1_loss(pred[positive], wanted, reduction="sum")
    return loss


def class_loss(logits: Tensor, matches: Matches, negative_ratio: int) -> Tensor:
    """Sum of the cross-entropy of `logits` (N, P, K + 1) over the positives and the hard negatives."""
    chosen = matches.positive | hard_negatives(logits, matches.labels, negative_ratio)
    return F.cross_entropy(logits[chosen], matches.labels[chosen], reduction="sum")


@torch.no_grad()
def hard_negatives(logits: Tensor, labels: Tensor, ratio: int) -> Tensor:
    """The background boxes that look least like background (hard negative mining, SSD, section 2.2).

    Args:
        logits: (N, P, K + 1).
        labels: (N, P), see `match_priors`.
        ratio: negatives per positive of an image, or all negatives if there are fewer.

    Returns:
        (N, P) bool.
    """
    loss = logits.logsumexp(dim=2) - logits[..., 0]
    loss[labels != 0] = 0
    rank = loss.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    count = (ratio * (labels > 0).sum(dim=1)).clamp(max=labels.shape[1] - 1)
    return (rank < count[:, None]) & (labels == 0)


def mask_loss(pred: Tensor, gt_masks: Tensor, boxes: Tensor) -> Tensor:
    """Cross-entropy of cropped mask probabilities, per object and per pixel of its box.

    It is taken after the crop, so a pixel of the object outside the box adds a constant 100 without gradient
    (`F.binary_cross_entropy` clamps the logarithm at -100).

    Args:
        pred: (n, h, w) cropped probabilities.
        gt_masks: (n, h, w) of zeros and ones.
        boxes: (n, 4) of the objects.

    Returns:
        (n,).
    """
    height, width = pred.shape[1:]
    error = F.binary_cross_entropy(pred.clamp(0, 1), gt_masks, reduction="none").sum(dim=(1, 2))
    sides = boxes[:, 2:] - boxes[:, :2]
    return error / (sides[:, 0] * width) / (sides[:, 1] * height)


def mask_iou_loss(net: MaskIoUNet, pred: Tensor, gt_masks: Tensor, classes: Tensor) -> Tensor:
    """Sum of the smooth L1 loss of the predicted mask IoU; its gradient also reaches the masks.

    Args:
        net: predicts the IoU.
        pred: (n, h, w) cropped probabilities.
        gt_masks: (n, h, w) of zeros and ones.
        classes: (n,) int64, 0-based.
    """
    with torch.no_grad():
        binary = (pred > 0.5).to(pred.dtype)
        intersection = (binary * gt_masks).sum(dim=(1, 2))
        union = binary.sum(dim=(1, 2)) + gt_masks.sum(dim=(1, 2)) - intersection
    return F.smooth_l1_loss(net.scores(pred, classes), intersection / union, reduction="sum")


def semantic_loss(logits: Tensor, targets: list[Targets]) -> Tensor:
    """Binary cross-entropy of each class (YOLACT, "Semantic Segmentation Loss"): mean over pixels and images, sum
    over classes.

    Args:
        logits: (N, K, h', w').
        targets: of each image; a class is wherever one of its objects is.
    """
    wanted = torch.zeros_like(logits)
    for image, target in zip(wanted, targets):
        masks = resize_masks(target.masks, logits.shape[-2:])
        members = F.one_hot(target.classes, len(image)).t().to(masks)
        image.copy_((members @ masks.flatten(1)).view_as(image) > 0)
    height, width = logits.shape[-2:]
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / height / width / len(targets)


@torch.no_grad()
def resize_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """(M, H, W) masks of zeros and ones, bilinearly resized to `size` and rounded to zeros and ones."""
    return (F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0.5).to(masks.dtype)
