import math

import pytest
import torch

from pentamask.common import reduce_mean
from pentamask.fcos.losses import ctrness_targets, location_loss, smoothed_ious


def test_ctrness():
    distances = torch.tensor([[1.0, 2.0, 1.0, 2.0], [1.0, 1.0, 4.0, 4.0], [0.0, 1.0, 2.0, 1.0]])
    assert torch.allclose(ctrness_targets(distances), torch.tensor([1.0, 0.25, 0.0]))


def test_smoothed_ious():
    pred, target = torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.tensor([[2.0, 1.0, 1.0, 2.0]])
    # Intersection 2 x 2, areas 4 and 9, enclosing 9.
    iou, giou = smoothed_ious(pred, target)
    assert iou.item() == pytest.approx(5 / 10)
    assert giou.item() == pytest.approx(5 / 10 - 0)
    pred = torch.tensor([[3.0, 1.0, 1.0, 1.0]])
    # Intersection 3 x 2 of areas 8 and 9, union 11, enclosing 4 x 3.
    iou, giou = smoothed_ious(pred, target)
    assert iou.item() == pytest.approx(7 / 12)
    assert giou.item() == pytest.approx(7 / 12 - 1 / 12)


def test_location_losses():
    iou, giou = torch.tensor([0.5]), torch.tensor([0.25])
    assert location_loss(iou, giou, "giou").item() == 0.75
    assert location_loss(iou, giou, "iou").item() == pytest.approx(math.log(2))
    assert location_loss(iou, giou, "linear_iou").item() == 0.5
    with pytest.raises(ValueError, match="LOC_LOSS_TYPE"):
        location_loss(iou, giou, "diou")


def test_reduce_mean_has_no_gradient_and_leaves_its_input():
    value = torch.tensor(3.0, requires_grad=True)
    mean = reduce_mean(value * 2)
    assert mean.item() == 6 and not mean.requires_grad
