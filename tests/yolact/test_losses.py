import math

import torch
import torch.nn.functional as F

from pentamask.yolact.losses import (
    Matches,
    Targets,
    YolactLoss,
    class_loss,
    hard_negatives,
    mask_iou_loss,
    mask_loss,
    resize_masks,
    semantic_loss,
)
from pentamask.yolact.mask_networks import MaskIoUNet
from pentamask.yolact.masks import assemble_masks, crop_masks
from pentamask.yolact.prediction_head import HeadOutputs


def targets_of(boxes, classes, side=16):
    """Rectangular objects; boxes in pixels of a square of this side."""
    masks = torch.zeros(len(boxes), side, side)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
    boxes = torch.tensor(boxes).float().reshape(-1, 4) / side
    return Targets(boxes, torch.tensor(classes, dtype=torch.int64), masks, torch.zeros(0, 4))


def test_hard_negatives_are_the_worst_background_boxes_of_each_image():
    background_loss = torch.tensor([[0.1, 0.9, 0.5, 0.3, 9.0, 8.0], [0.5, 0.4, 0.3, 0.2, 0.1, 0.6]])
    # Two classes: logsumexp(0, x) = background_loss.
    logits = torch.stack((torch.zeros(2, 6), (background_loss.exp() - 1).log()), dim=2)
    labels = torch.tensor([[0, 0, 0, 0, 1, -1], [0, 0, 0, 0, 0, 0]])
    chosen = hard_negatives(logits, labels, ratio=2)
    assert chosen[0].tolist() == [False, True, True, False, False, False]
    assert not chosen[1].any()  # no positive, no negative
    assert hard_negatives(logits, labels, ratio=99)[0].tolist() == [True] * 4 + [False] * 2


def test_class_loss_sums_over_positives_and_hard_negatives():
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])
    matches = Matches(torch.tensor([[1, 0, 0, -1]]), torch.zeros(1, 4, dtype=torch.int64))
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))
    assert class_loss(logits, matches, 1).item() == torch.tensor(expected).item()


def test_masks_are_combined_and_cropped_with_a_margin_of_one_pixel():
    prototypes = torch.stack((torch.ones(8, 8), torch.zeros(8, 8)))
    prototypes[1, :, 4:] = 1
    masks = assemble_masks(prototypes, torch.tensor([[1.0, -2.0]]))
    torch.testing.assert_close(masks[0, 0], torch.tensor([1.0] * 4 + [-1.0] * 4).sigmoid())
    # Corners in any order; 0.25 * 8 - 1 = 1 is inside, 0.5 * 8 + 1 = 5 is not; beyond the map nothing happens.
    cropped = crop_masks(torch.ones(1, 8, 8), torch.tensor([[0.5, 2.0, 0.25, -1.0]]))
    assert cropped[0].any(dim=0).tolist() == [False, True, True, True, True, False, False, False]
    assert cropped[0].any(dim=1).all()


def test_mask_loss_by_hand():
    pred = torch.full((1, 4, 4), 0.5)
    pred[:, :, 2:] = 0  # cropped away
    gt = torch.zeros(1, 4, 4)
    gt[0, 0, 0] = gt[0, 0, 3] = 1
    loss = mask_loss(pred, gt, torch.tensor([[0.0, 0.0, 0.5, 1.0]]))
    # Eight pixels of probability 0.5, and one of the object outside of the crop; the box has 2 x 4 pixels.
    torch.testing.assert_close(loss, torch.tensor([(8 * math.log(2) + 100) / 8]))


def test_mask_loss_of_a_subset_stands_for_all_positives():
    torch.manual_seed(0)
    target = targets_of([[2, 2, 10, 10]], [0])
    outputs = HeadOutputs(torch.zeros(1, 6, 4), torch.zeros(1, 6, 3), torch.ones(1, 6, 4))
    prototypes = torch.rand(1, 4, 8, 8)
    matches = Matches(torch.ones(1, 6, dtype=torch.int64), torch.zeros(1, 6, dtype=torch.int64))
    full, some = (
        YolactLoss(masks_to_train=n)._mask_losses(outputs, prototypes, matches, [target], None) for n in (9, 2)
    )
    torch.testing.assert_close(full[0], some[0])


def test_semantic_target_is_the_union_of_a_class():
    targets = [targets_of([[0, 0, 4, 4], [2, 0, 8, 4], [8, 8, 16, 16]], [1, 1, 0]), targets_of([], [])]
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    wanted = torch.zeros(2, 3, 4, 4)
    wanted[0, 1, 0, :2] = 1
    wanted[0, 0, 2:, 2:] = 1
    expected = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(0, 2, 3)).sum()
    torch.testing.assert_close(semantic_loss(logits, targets), expected)


def test_masks_stay_binary_when_resized():
    masks = targets_of([[0, 0, 3, 16]], [0]).masks
    assert resize_masks(masks, (4, 4))[0, 0].tolist() == [1, 0, 0, 0]
    assert resize_masks(masks[:0], (4, 4)).shape == (0, 4, 4)


def test_mask_iou_loss_compares_with_the_true_iou():
    class Half(MaskIoUNet):
        def forward(self, masks):
            return masks.new_tensor([[9.0, 0.5]]).expand(len(masks), 2)

    pred = torch.zeros(1, 4, 4)
    pred[0, :2] = 0.9
    gt = torch.zeros(1, 4, 4)
    gt[0, :1] = 1
    loss = mask_iou_loss(Half(2), pred, gt, torch.tensor([1]))
    assert loss.item() == 0  # 4 of 8 pixels
    assert mask_iou_loss(Half(2), pred, 0 * gt, torch.tensor([1])).item() == 0.125  # smooth L1 of 0.5


def test_weights_scale_their_loss():
    torch.manual_seed(0)
    priors = torch.tensor([[0.4, 0.4, 0.5, 0.5], [0.8, 0.8, 0.2, 0.2], [0.1, 0.8, 0.2, 0.2]])
    outputs = HeadOutputs(torch.randn(1, 3, 4), torch.randn(1, 3, 3), torch.rand(1, 3, 4))
    arguments = outputs, torch.rand(1, 4, 64, 64), torch.randn(1, 2, 8, 8), priors, [targets_of([[2, 2, 11, 11]], [1])]
    net = MaskIoUNet(2)
    names = {"B": "box", "C": "class", "M": "mask", "S": "semantic", "I": "mask_iou"}
    plain = YolactLoss(**{f"{name}_weight": 1.0 for name in names.values()})(*arguments, net)
    assert set(plain) == set(names) and all(loss > 0 for loss in plain.values())
    tripled = YolactLoss(**{f"{name}_weight": 3.0 for name in names.values()})(*arguments, net)
    for name, loss in plain.items():
        torch.testing.assert_close(tripled[name], 3 * loss)
