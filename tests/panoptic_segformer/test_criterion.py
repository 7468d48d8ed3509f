"""Losses of hand-made predictions."""

import math

import pytest
import torch

from pentamask.panoptic_segformer.criterion import (
    Counts,
    DecodedMasks,
    Stuff,
    location_losses,
    match_masks,
    stuff_losses,
    thing_mask_losses,
)
from pentamask.panoptic_segformer.location_decoder import Locations
from pentamask.panoptic_segformer.matcher import Things, Weights

WEIGHTS = Weights(2.0, 5.0, 3.0, 7.0)
SIZE = (8, 16)


def halves(*sides):
    """Masks (n, *SIZE) of the left ("l") or right ("r") half, or nothing."""
    masks = torch.zeros((len(sides), *SIZE))
    for mask, side in zip(masks, sides):
        mask[:, {"l": slice(0, 8), "r": slice(8, 16), "-": slice(0, 0)}[side]] = 1
    return masks


def things(*sides):
    boxes = {"l": [0.0, 0, 8, 8], "r": [8.0, 0, 16, 8]}
    tensor = torch.tensor([boxes[side] for side in sides]).reshape(-1, 4)
    return Things(classes=torch.arange(len(sides)), boxes=tensor, masks=halves(*sides))


def counts(things=1.0, stuff=1.0):
    return Counts(torch.tensor(things), torch.tensor(stuff))


def test_counts_are_at_least_one_and_share():
    found = Counts.of(3, 0, torch.device("cpu"))
    assert (found.things, found.stuff) == (3, 1)
    assert (found.thing_share, found.stuff_share) == (0.75, 0.25)


def test_box_losses_by_hand():
    """One thing in the left half; its query predicts the whole image, so IoU and GIoU are 1/2."""
    logits = torch.full((1, 1, 2, 2), -20.0)
    logits[0, 0, 1, 0] = 20.0
    boxes = torch.tensor([[[[0.5, 0.5, 0.1, 0.1], [0.5, 0.5, 1.0, 1.0]]]])
    locations = Locations(torch.zeros(1, 2, 4), logits, boxes)
    matches = [[(torch.tensor([1]), torch.tensor([0]))]]
    losses = location_losses(locations, matches, [things("l")], WEIGHTS, counts(1.0, 3.0))
    assert set(losses) == {"loss_cls", "loss_bbox", "loss_iou"}
    torch.testing.assert_close(losses["loss_bbox"], torch.tensor(5.0 * (0.25 + 0.5) / 4))
    torch.testing.assert_close(losses["loss_iou"], torch.tensor(3.0 * 0.5 / 4))
    torch.testing.assert_close(losses["loss_cls"], torch.tensor(0.0))


@pytest.mark.parametrize("side, loss", [("l", 0.0), ("r", 1.0), ("-", 1.0)])
def test_dice_loss_is_relative_to_the_matched_mask(side, loss):
    decoded = DecodedMasks(things=[halves("r", "l"), halves("r", side)], stuff=[], stuff_logits=[])
    matches = [(torch.tensor([0, 1]), torch.tensor([1, 0]))]
    gt = things("l", "r")
    # Targets have twice the size of predictions: those of constant halves equal themselves but at the border.
    losses = thing_mask_losses([decoded], matches, [gt], WEIGHTS, counts(2.0, 2.0))
    expected = 7.0 * 0.5 / 2 * loss
    torch.testing.assert_close(losses["loss_mask_things"], torch.tensor(expected), rtol=0.05, atol=0.03)
    torch.testing.assert_close(losses["d0.loss_mask_things_f"], torch.tensor(0.0), rtol=0.0, atol=0.03)
    assert losses["d0.loss_cls_f"] == losses["d0.loss_bbox_f"] == losses["d0.loss_iou_f"] == 0


def test_masks_are_matched_on_their_own():
    """Boxes and classes say nothing, the masks are the other way round."""
    locations = Locations(torch.zeros(1, 3, 4), torch.zeros(1, 1, 3, 2), torch.full((1, 1, 3, 4), 0.5))
    queries, objects = match_masks(locations, 0, torch.tensor([0, 2]), halves("r", "l"), things("l", "r"), WEIGHTS)
    assert queries.tolist() == [0, 1] and objects.tolist() == [1, 0]


def test_classes_count_twice_when_masks_are_matched():
    """Classes speak for one pairing, masks for the other.

    A class of probability 1/2 costs (0.25 - 0.75) / 4 * log 2 = -0.087 and one of 1/4 costs 0.25 * 9/16 * log 4 -
    0.75 / 16 * log 4/3 = 0.181: two wrong classes cost 0.54 more, and twice that if they count twice. Two wrong masks
    cost 2 times the weight of dice.
    """
    quarter = math.log(1 / 3)
    logits = torch.tensor([[0.0, quarter], [quarter, 0.0]])
    locations = Locations(torch.zeros(1, 2, 4), logits[None, None], torch.full((1, 1, 2, 4), 0.5))
    arguments = (locations, 0, torch.tensor([0, 1]), halves("r", "l"), things("l", "r"))
    assert match_masks(*arguments, Weights(1.0, 0.0, 0.0, 0.4))[1].tolist() == [0, 1]  # 0.8 is less than 1.07
    assert match_masks(*arguments, Weights(1.0, 0.0, 0.0, 0.6))[1].tolist() == [1, 0]  # 1.2 is more


def stuff_loss(gt, gt_things, masks, logits=(0.0, 0.0)):
    decoded = DecodedMasks(things=[], stuff=[masks, masks], stuff_logits=[torch.tensor(logits)])
    return stuff_losses([decoded], [gt_things], [gt], WEIGHTS, counts(1.0, 1.0))


def test_absent_stuff_has_no_mask_loss():
    gt = Stuff(classes=torch.tensor([1]), masks=halves("l"))
    right = stuff_loss(gt, things("r"), halves("r", "l"))["loss_mask_stuff"]
    torch.testing.assert_close(right, torch.tensor(0.0), rtol=0.0, atol=0.06)
    wrong = stuff_loss(gt, things("r"), halves("l", "r"))["loss_mask_stuff"]
    torch.testing.assert_close(wrong, torch.tensor(7.0 * 0.5), rtol=0.05, atol=0.0)


def test_of_stuff_that_occurs_twice_the_last_mask_is_the_target():
    gt = Stuff(classes=torch.tensor([1, 1]), masks=halves("r", "l"))
    losses = stuff_loss(gt, things("r"), halves("-", "l"))
    torch.testing.assert_close(losses["loss_mask_stuff"], torch.tensor(0.0), rtol=0.0, atol=0.06)


def test_stuff_classes_by_hand():
    """Focal loss at probability 1/2: 0.25 or 0.75 times (1/2)^2 log 2; twice, because the released code does so."""
    gt = Stuff(classes=torch.tensor([0]), masks=halves("l"))
    losses = stuff_loss(gt, things("r"), halves("l", "-"))
    expected = 2 * 2.0 * 0.5 * (0.25 + 0.75) * 0.25 * torch.tensor(2.0).log()
    torch.testing.assert_close(losses["d0.loss_cls_stuff_f"], expected)
    assert stuff_loss(gt, things(), halves("l", "-"))["d0.loss_cls_stuff_f"] == 0
