"""Objects keep their numbers while they move, cross, and are hidden for some frames."""

import torch
from detectron2.structures import Boxes, Instances

from pentamask.visualize.tracking import BoxTracker, VideoTracker


def update(tracker: BoxTracker, *objects: tuple[int, int]) -> list[int]:
    """Numbers of squares of side 20 at x, of a class."""
    boxes = torch.tensor([[x, 10.0, x + 20, 30] for x, _ in objects]).reshape(-1, 4)
    return tracker.update(boxes, torch.tensor([label for _, label in objects], dtype=torch.long)).tolist()


def test_identities_stay():
    tracker = BoxTracker()
    assert update(tracker, (0, 1), (60, 1)) == [0, 1]
    assert update(tracker, (64, 1), (5, 1)) == [1, 0]  # in another order
    assert update(tracker, (10, 1)) == [0]
    assert update(tracker) == []  # both are hidden
    assert update(tracker, (12, 1), (66, 1), (150, 1)) == [0, 1, 2]


def test_who_is_hidden_too_long_comes_back_as_another():
    tracker = BoxTracker(lost_frames=2)
    assert update(tracker, (0, 1)) == [0]
    assert [update(tracker) for _ in range(2)] == [[], []]
    assert update(tracker, (0, 1)) == [0]
    assert [update(tracker) for _ in range(3)] == [[], [], []]
    assert update(tracker, (0, 1)) == [1]


def test_the_best_assignment_of_all():
    """IoUs: 0.6 and 0.14 of the first, 0.82 and 0.43 of the second, whose best would leave nothing to the first."""
    tracker = BoxTracker(iou_threshold=0.2)
    assert update(tracker, (0, 1), (10, 1)) == [0, 1]
    assert update(tracker, (-5, 1), (2, 1)) == [0, 1]


def test_another_class_is_another_object():
    tracker = BoxTracker()
    assert update(tracker, (0, 1)) == [0]
    assert update(tracker, (0, 2)) == [1]
    assert update(tracker, (0, 1), (0, 2)) == [0, 1]


def test_instances_and_the_things_of_panoptic_maps_are_numbered():
    instances = Instances((4, 6), pred_boxes=Boxes(torch.tensor([[0.0, 0, 3, 2]])), pred_classes=torch.tensor([1]))
    id_map = torch.tensor([[5, 5, 5, 9, 9, 9]] * 4)
    segments = [{"id": 9, "isthing": False, "category_id": 0}, {"id": 5, "isthing": True, "category_id": 0}]
    track = VideoTracker()
    first = track({"instances": instances, "panoptic_seg": (id_map, segments)})
    assert first["instances"].ID.tolist() == [0]
    assert [s.get("track_id") for s in first["panoptic_seg"][1]] == [None, 0] and "track_id" not in segments[1]
    second = track({"panoptic_seg": (id_map, [*segments, {"id": 7, "isthing": True, "category_id": 1}])})
    assert [s.get("track_id") for s in second["panoptic_seg"][1]] == [None, 0, 1]
    assert track({"panoptic_seg": (id_map, segments[:1]), "sem_seg": id_map})["panoptic_seg"][1] == segments[:1]
