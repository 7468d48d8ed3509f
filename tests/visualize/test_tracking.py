"""Objects keep their numbers and colours while they move, cross, and are hidden for some frames."""

import torch
from detectron2.structures import Boxes, Instances

from pentamask.visualize.tracking import Tracker


def frame(*objects: tuple[int, int]) -> Instances:
    """Squares of side 20 at x, of a class."""
    found = Instances((100, 200), scores=torch.ones(len(objects)))
    found.pred_classes = torch.tensor([label for _, label in objects], dtype=torch.long)
    found.pred_boxes = Boxes(torch.tensor([[x, 10.0, x + 20, 30] for x, _ in objects]).reshape(-1, 4))
    return found


def test_identities_stay():
    tracker = Tracker(100, 200)
    first = tracker(frame((0, 1), (60, 1)))
    assert first.ID.tolist() == [0, 1] and first.COLOR[0] != first.COLOR[1]
    moved = tracker(frame((64, 1), (5, 1)))  # in another order
    assert moved.ID.tolist() == [1, 0] and first.COLOR[::-1] == moved.COLOR
    assert tracker(frame((10, 1))).ID.tolist() == [0]
    assert len(tracker(frame())) == 0  # both are hidden
    assert tracker(frame((12, 1), (66, 1), (150, 1))).ID.tolist() == [0, 1, 2]


def test_another_class_is_another_object():
    tracker = Tracker(100, 200)
    assert tracker(frame((0, 1))).ID.tolist() == [0]
    assert tracker(frame((0, 2))).ID.tolist() == [1]
    boxes = tracker(frame((0, 2))).pred_boxes.tensor
    assert boxes.tolist() == [[0, 10, 20, 30]]
