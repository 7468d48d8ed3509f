import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, PolygonMasks

from pentamask.centermask import MaskIoUHead
from pentamask.centermask.mask_iou_head import inside_shares, mask_iou_targets


def rectangle(x, y, width, height):
    return np.array([x, y, x + width, y, x + width, y + height, x, y + height], dtype=np.float64)


def as_bitmasks(polygons: PolygonMasks) -> BitMasks:
    return BitMasks.from_polygon_masks(polygons, 64, 64)


@pytest.mark.parametrize("convert", [lambda masks: masks, as_bitmasks], ids=["polygon", "bitmask"])
def test_shares_inside_the_roi(convert):
    masks = PolygonMasks([[rectangle(10, 10, 20, 20)]] * 5)
    boxes = torch.tensor(
        [
            [10.0, 10, 30, 30],  # all of it
            [20, 10, 40, 30],  # the right half
            [20, 20, 60, 60],  # a quarter
            [40, 40, 60, 60],  # none
            [-20, -20, 20, 20],  # a quarter, of a RoI that reaches beyond the image
        ]
    )
    expected = torch.tensor([1, 0.5, 0.25, 1e-10, 0.25], dtype=torch.float64)
    torch.testing.assert_close(inside_shares(convert(masks), boxes), expected)


def test_parts_of_a_polygon_count_one_by_one():
    """The same part twice: twice the area, and twice the pixels inside."""
    masks = PolygonMasks([[rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 10), rectangle(20, 0, 20, 10)]])
    share = inside_shares(masks, torch.tensor([[0.0, 0, 10, 10]]))
    torch.testing.assert_close(share, torch.tensor([200 / 400], dtype=torch.float64))


def test_the_rois_size_is_cut_to_whole_pixels():
    masks = PolygonMasks([[rectangle(0, 0, 20, 20)]])
    share = inside_shares(masks, torch.tensor([[0.0, 0, 10.9, 20.9]]))
    torch.testing.assert_close(share, torch.tensor([0.5], dtype=torch.float64))


def test_an_object_without_area_lies_outside():
    share = inside_shares(BitMasks(torch.zeros(1, 8, 8)), torch.tensor([[0.0, 0, 8, 8]]))
    torch.testing.assert_close(share, torch.tensor([1e-10], dtype=torch.float64))


def test_masks_of_another_type_are_refused():
    with pytest.raises(TypeError, match="PolygonMasks or BitMasks, got Tensor"):
        inside_shares(torch.zeros(1, 4, 4), torch.zeros(1, 4))


def test_targets_are_ious_with_the_whole_object():
    logits = torch.full((3, 4, 4), -1.0)
    gt_masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    gt_masks[:, :2] = True  # 8 cells of the object in the RoI
    logits[0, :2] = 1  # predicted exactly
    logits[1, 0] = 1  # half of them
    shares = torch.tensor([1, 1, 0.5], dtype=torch.float64)  # the RoI of the last one misses half of its object
    logits[2, :2] = 1
    expected = torch.tensor([1, 0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(mask_iou_targets(logits, gt_masks, shares), expected)


@pytest.fixture
def head():
    torch.manual_seed(0)
    return MaskIoUHead(in_channels=3, resolution=14, num_classes=4, channels=8, num_convs=2, fc_channels=16)


def test_head_predicts_one_number_a_class(head):
    pred = head(torch.randn(5, 3, 14, 14), torch.rand(5, 1, 28, 28))
    assert pred.shape == (5, 4)
    assert head(torch.randn(0, 3, 14, 14), torch.rand(0, 1, 28, 28)).shape == (0, 4)


def test_loss_is_half_the_mean_square_over_positive_targets(head):
    pred = torch.tensor([[0.5, 9, 9, 9], [9, 0.2, 9, 9], [9, 9, 9, 9]], requires_grad=True)
    classes, targets = torch.tensor([0, 1, 2]), torch.tensor([1.0, 0.6, 0], dtype=torch.float64)
    loss = head.loss(pred, classes, targets)
    torch.testing.assert_close(loss, torch.tensor(0.5 * (0.5**2 + 0.4**2) / 2))
    none = head.loss(pred, classes, torch.zeros(3, dtype=torch.float64))
    assert none == 0 and none.requires_grad


def test_the_loss_has_the_weight_of_the_config(tiny_cfg):
    tiny_cfg.MODEL.MASKIOU_LOSS_WEIGHT = 3.0
    head = MaskIoUHead(tiny_cfg, ShapeSpec(channels=3, height=14, width=14))
    loss = head.loss(torch.tensor([[0.5]]), torch.tensor([0]), torch.tensor([0.9]))
    torch.testing.assert_close(loss, torch.tensor(3 * 0.5 * 0.4**2))


def test_the_loss_reaches_masks_and_features(head):
    features = torch.randn(2, 3, 14, 14, requires_grad=True)
    masks = torch.rand(2, 1, 28, 28, requires_grad=True)
    head.loss(head(features, masks), torch.tensor([0, 3]), torch.tensor([0.9, 0.9])).backward()
    assert features.grad.abs().sum() > 0 and masks.grad.abs().sum() > 0
