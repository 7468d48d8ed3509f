import torch

from pentamask.panoptic_segformer.matcher import Things, Weights, dice_costs, match

WEIGHTS = Weights(2.0, 5.0, 2.0, 2.0)


def things(*boxes, classes=None):
    masks = torch.zeros((len(boxes), 20, 40), dtype=torch.bool)
    return Things(
        classes=torch.tensor(classes or [0] * len(boxes), dtype=torch.int64),
        boxes=torch.tensor(boxes).float().reshape(-1, 4),
        masks=masks,
    )


def test_boxes_decide_between_equal_classes():
    gt = things((0, 0, 20, 10), (20, 10, 40, 20))
    boxes = torch.tensor([[0.5, 0.5, 0.1, 0.1], [0.75, 0.75, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5]])
    queries, objects = match(torch.zeros(3, 2), boxes, gt, WEIGHTS)
    assert queries.tolist() == [1, 2] and objects.tolist() == [1, 0]


def test_classes_decide_between_equal_boxes():
    gt = things((0, 0, 20, 10), (0, 0, 20, 10), classes=[1, 0])
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5]] * 2)
    queries, objects = match(torch.tensor([[3.0, -3.0], [-3.0, 3.0]]), boxes, gt, WEIGHTS)
    assert queries.tolist() == [0, 1] and objects.tolist() == [1, 0]


def test_masks_can_overrule_boxes():
    gt = things((0, 0, 20, 10), (20, 10, 40, 20))
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]])
    costs = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert match(torch.zeros(2, 1), boxes, gt, WEIGHTS, costs)[1].tolist() == [1, 0]


def test_saturated_classes_have_finite_costs():
    """Probabilities of exactly 0 and 1, whose logarithm needs the 1e-12."""
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5]] * 2)
    logits = torch.tensor([[-200.0, 200.0], [200.0, -200.0]])
    assert match(logits, boxes, things((0, 0, 20, 10)), WEIGHTS)[0].tolist() == [1]


def test_nothing_to_match():
    queries, objects = match(torch.zeros(3, 2), torch.full((3, 4), 0.5), things(), WEIGHTS)
    assert queries.tolist() == objects.tolist() == [] and queries.dtype == objects.dtype == torch.int64


def test_dice_costs():
    masks = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    gt = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])
    expected = torch.tensor([[1 - 2 / 2.002, 1 - 2 / 3.002], [1.0, 1.0]])
    torch.testing.assert_close(dice_costs(masks, gt), expected)
