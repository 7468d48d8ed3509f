"""Assignment of locations to objects, worked out by hand on a 4 x 4 grid of stride 8 (points 4, 12, 20, 28)."""

import pytest
import torch

from pentamask.fcos.locations import level_locations
from pentamask.fcos.targets import fcos_targets, level_ranges

BACKGROUND = 5


def assign(boxes, classes, *, ranges=(-1.0, 64.0), radius=1.5):
    locations = level_locations(4, 4, 8, torch.device("cpu"))
    labels, distances, index = fcos_targets(
        locations,
        torch.full((16,), 8.0),
        torch.tensor(ranges).expand(16, 2),
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.long),
        num_classes=BACKGROUND,
        center_radius=radius,
    )
    return labels.view(4, 4), distances.view(4, 4, 4), index.view(4, 4)


def test_locations_are_cell_centres_row_by_row():
    points = level_locations(2, 3, 16, torch.device("cpu"))
    assert points.tolist() == [[8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24]]
    assert points.dtype == torch.float32


def test_whole_box_without_centre_sampling_and_strictly_inside():
    # The box ends exactly on the points of column 0 and row 2: those are not strictly inside.
    labels, distances, _ = assign([[4.0, 0.0, 32.0, 20.0]], [3], radius=None)
    expected = torch.full((4, 4), BACKGROUND)
    expected[:2, 1:] = 3
    assert torch.equal(labels, expected)
    assert torch.equal(distances[1, 2], torch.tensor([16.0, 12.0, 12.0, 8.0]) / 8)


def test_centre_sampling_keeps_the_centre_region():
    # Centre (16, 16), region 12 px around it: points 12 and 20 in both axes.
    labels, _, _ = assign([[0.0, 0.0, 32.0, 32.0]], [1])
    expected = torch.full((4, 4), BACKGROUND)
    expected[1:3, 1:3] = 1
    assert torch.equal(labels, expected)


def test_smallest_box_wins_and_the_first_on_ties():
    boxes = [[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 24.0, 24.0], [0.0, 0.0, 24.0, 24.0]]
    labels, _, index = assign(boxes, [0, 1, 2], radius=None)
    assert (labels[:3, :3] == 1).all() and (index[:3, :3] == 1).all()
    assert (labels[3] == 0).all() and (labels[:, 3] == 0).all()


def test_areas_are_width_times_height():
    """24 x 20 is less than 28 x 20, whatever the boxes' corners; the other box would win by any mixture of them."""
    labels, _, _ = assign([[2.0, 2.0, 30.0, 22.0], [8.0, 0.0, 32.0, 20.0]], [0, 1], radius=None)
    assert (labels[:2, 1:] == 1).all()
    labels, _, _ = assign([[2.0, 2.0, 22.0, 30.0], [0.0, 8.0, 20.0, 32.0]], [0, 1], radius=None)
    assert (labels[1:, :2] == 1).all()


@pytest.mark.parametrize("limits, inside", [((16.0, 20.0), True), ((20.0, 64.0), True), ((20.5, 64.0), False)])
def test_level_range_is_inclusive_on_both_sides(limits, inside):
    # At (12, 12) the largest distance is exactly 20.
    labels, _, _ = assign([[0.0, 0.0, 32.0, 32.0]], [1], ranges=limits, radius=None)
    assert bool(labels[1, 1] == 1) == inside


def test_no_boxes():
    labels, distances, index = assign([], [])
    assert (labels == BACKGROUND).all() and (distances == 0).all() and (index == -1).all()


def test_level_ranges():
    assert level_ranges([64, 128]) == [(-1, 64), (64, 128), (128, 1e8)]
