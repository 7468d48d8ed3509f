"""Losses of Panoptic SegFormer (section 3.6), as in the released code.

D location decoder layers, N images, T thing classes, S stuff classes; per image K things and Q queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss

from pentamask.common import mean_count

from .location_decoder import Locations
from .matcher import Things, Weights, dice_costs, match

Match = tuple[Tensor, Tensor]  # queries, ascending, and their things


@dataclass
class Stuff:
    """The ground-truth stuff of an image.

    Attributes:
        classes: (M,) int64, 0 ... S - 1. A class that occurs twice counts twice, and its last mask is the target.
        masks: (M, H, W) at the size of the image.
    """

    classes: Tensor
    masks: Tensor


@dataclass
class DecodedMasks:
    """What the mask decoders make of one image in training; the last masks of a list are the final ones.

    Attributes:
        things: of each block and finally, (K, h, w) masks of the matched queries.
        stuff: of each block and finally, (S, h, w) masks.
        stuff_logits: of each block, (S,) logits of a class being there.
    """

    things: list[Tensor]
    stuff: list[Tensor]
    stuff_logits: list[Tensor]


@dataclass
class Counts:
    """Segments a worker has on average (see `mean_count`): the normalisers, and the balance of things and stuff."""

    things: Tensor
    stuff: Tensor

    @classmethod
    def of(cls, things: int, stuff: int, device: torch.device) -> "Counts":
        """The mean over workers of the counts in this worker's batch."""
        counts = mean_count(torch.tensor([things, stuff], device=device))
        return cls(things=counts[0], stuff=counts[1])

    @property
    def thing_share(self) -> Tensor:
        return self.things / (self.things + self.stuff)

    @property
    def stuff_share(self) -> Tensor:
        return self.stuff / (self.things + self.stuff)


def match_locations(locations: Locations, things: Sequence[Things], weights: Weights) -> list[list[Match]]:
    """For every layer and image the queries that are responsible for the things."""
    return [
        [match(logits[n], boxes[n], gt, weights) for n, gt in enumerate(things)]
        for logits, boxes in zip(locations.logits, locations.boxes)
    ]


def match_masks(
    locations: Locations, n: int, queries: Tensor, masks: Tensor, things: Things, weights: Weights
) -> Match:
    """A second assignment, of the (K, h, w) final masks of the `queries` of image `n`, which only the mask losses use.

    The class term counts twice, as in the released code.
    """
    gt_masks = _resize(things.masks, masks.shape[-2:], masks.dtype)
    weights = replace(weights, cls=2 * weights.cls)
    logits, boxes = locations.logits[-1, n, queries], locations.boxes[-1, n, queries]
    return match(logits, boxes, things, weights, dice_costs(masks.detach(), gt_masks))


def location_losses(
    locations: Locations, matches: list[list[Match]], things: Sequence[Things], weights: Weights, counts: Counts
) -> dict[str, Tensor]:
    """`loss_cls`, `loss_bbox` and `loss_iou` of the last layer; of layer i before it with the prefix `d<i>.`."""
    losses = {}
    for layer, (logits, boxes) in enumerate(zip(locations.logits, locations.boxes)):
        targets, l1, giou = torch.zeros_like(logits), [], []
        for n, (gt, (queries, objects)) in enumerate(zip(things, matches[layer])):
            targets[n, queries, gt.classes[objects]] = 1
            pred, target = boxes[n, queries], gt.boxes[objects].to(boxes.dtype)
            l1.append((pred - box_convert(target, "xyxy", "cxcywh") / gt.scale).abs().sum())
            pixel_boxes = box_convert(pred * gt.scale, "cxcywh", "xyxy")
            giou.append(generalized_box_iou_loss(pixel_boxes, target, reduction="sum"))
        prefix = "" if layer == len(locations.logits) - 1 else f"d{layer}."
        factor = counts.thing_share / counts.things
        focal = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0, reduction="sum")
        losses[f"{prefix}loss_cls"] = weights.cls * factor * focal
        losses[f"{prefix}loss_bbox"] = weights.l1 * factor * sum(l1)
        losses[f"{prefix}loss_iou"] = weights.giou * factor * sum(giou)
    return losses


def thing_mask_losses(
    decoded: Sequence[DecodedMasks],
    matches: Sequence[Match],
    things: Sequence[Things],
    weights: Weights,
    counts: Counts,
) -> dict[str, Tensor]:
    """`loss_mask_things` of the final masks; `d<i>.loss_mask_things_f` of block i.

    The released code also reports losses of classes and boxes from these blocks with weight 0; so they are 0 here.
    """
    losses = {}
    num_blocks = len(decoded[0].things) - 1
    targets = [
        _mask_targets(gt.masks, image.things[-1])[objects] for image, gt, (_, objects) in zip(decoded, things, matches)
    ]
    for i in range(num_blocks + 1):
        dice = [
            _dice_losses(image.things[i][indices], target).sum()
            for image, target, (indices, _) in zip(decoded, targets, matches)
        ]
        name = "loss_mask_things" if i == num_blocks else f"d{i}.loss_mask_things_f"
        losses[name] = weights.dice * counts.thing_share / counts.things * sum(dice)
        if i < num_blocks:
            losses |= {f"d{i}.loss_{part}_f": losses[name].new_zeros(()) for part in ("cls", "bbox", "iou")}
    return losses


def stuff_losses(
    decoded: Sequence[DecodedMasks], things: Sequence[Things], stuff: Sequence[Stuff], weights: Weights, counts: Counts
) -> dict[str, Tensor]:
    """`loss_mask_stuff` of the final masks; `d<i>.loss_mask_stuff_f` and `d<i>.loss_cls_stuff_f` of block i.

    As in the released code the classes of an image without things are not trained.
    """
    losses = {}
    num_blocks = len(decoded[0].stuff_logits)
    factor = counts.stuff_share / counts.stuff
    # Of each class the last mask.
    last = [{label: number for number, label in enumerate(gt.classes.tolist())} for gt in stuff]
    targets = [
        _mask_targets(gt.masks[list(numbers.values())], image.stuff[-1])
        for image, gt, numbers in zip(decoded, stuff, last)
    ]
    for i in range(num_blocks + 1):
        dice, focal = [], []
        for image, gt_things, gt, numbers, target in zip(decoded, things, stuff, last, targets):
            dice.append(_dice_losses(image.stuff[i][list(numbers)], target).sum())
            if i < num_blocks:
                present = torch.zeros_like(image.stuff_logits[i])
                present[gt.classes] = 1
                loss = sigmoid_focal_loss(image.stuff_logits[i], present, alpha=0.25, gamma=2.0, reduction="sum")
                focal.append(loss * (len(gt_things.classes) > 0))
        name = "loss_mask_stuff" if i == num_blocks else f"d{i}.loss_mask_stuff_f"
        losses[name] = weights.dice * factor * sum(dice)
        if i < num_blocks:
            losses[f"d{i}.loss_cls_stuff_f"] = 2 * weights.cls * factor * sum(focal)
    return losses


def _dice_losses(masks: Tensor, targets: Tensor) -> Tensor:
    """1 - dice of (K, h, w) masks, doubled in size, and (K, 2h, 2w) targets: (K,)."""
    masks = F.interpolate(masks[:, None], scale_factor=2, mode="bilinear", align_corners=False).flatten(1)
    targets = targets.flatten(1)
    squares = (masks**2).sum(dim=1) + 1e-6 + (targets**2).sum(dim=1) + 1e-6
    return 1 - 2 * (masks * targets).sum(dim=1) / squares


def _mask_targets(gt_masks: Tensor, masks: Tensor) -> Tensor:
    height, width = masks.shape[-2:]
    return _resize(gt_masks, (2 * height, 2 * width), masks.dtype)


def _resize(gt_masks: Tensor, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """(K, H, W) of any type -> (K, *size) in 0-1."""
    return F.interpolate(gt_masks[:, None].to(dtype), size, mode="bilinear", align_corners=False)[:, 0]
