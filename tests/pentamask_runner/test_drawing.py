"""Objects are tinted by half, outlined and named; the last lies on top."""

import numpy as np
from pentamask_runner.drawing import Region, colour_of, draw_regions


def mask(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((60, 80), bool)
    mask[rows, columns] = True
    return mask


def test_masks_are_tinted_and_outlined() -> None:
    picture = np.full((60, 80, 3), 100, np.uint8)
    regions = [
        Region("below", (200, 0, 60), mask(np.s_[20:50], np.s_[0:40]), (0, 0, 40, 50)),
        Region("above", (0, 0, 254), mask(np.s_[30:50], np.s_[30:70]), (30, 0, 70, 50)),
    ]
    drawn = draw_regions(picture, regions)
    assert (picture == 100).all() and drawn.dtype == np.uint8
    assert drawn[40, 10].tolist() == [150, 50, 80]  # half and half
    assert drawn[40, 35].tolist() == [50, 50, 177]  # of the one on top only
    for row, column, colour in ((20, 10, [200, 0, 60]), (40, 29, [200, 0, 60]), (40, 30, [0, 0, 254])):
        assert drawn[row, column].tolist() == colour  # edges, outer ones and those where masks meet
    assert (drawn[25:, 75:] == 100).all() and drawn[49, 10].tolist() == [200, 0, 60]


def test_boxes_without_masks_are_outlined() -> None:
    drawn = draw_regions(np.full((60, 80, 3), 100, np.uint8), [Region("a", (1, 2, 3), None, (10.2, 20, 200, 50))])
    is_line = (drawn == (1, 2, 3)).all(axis=2)
    assert is_line[48:50, 10:].all() and is_line[40:50, 10:12].all() and is_line[40:50, 78:].all()
    assert (drawn[40:48, 12:78] == 100).all() and (drawn[50:] == 100).all()


def test_captions_stand_on_their_colour_inside_the_picture() -> None:
    picture = np.full((60, 80, 3), 100, np.uint8)
    inside = mask(np.s_[30:], np.s_[40:])
    for region, ink in (
        (Region("cat 87% #3", (200, 220, 0), None, (70, 55, 79, 59)), 0),  # dark on a light colour
        (Region("sky", (0, 0, 90), inside), 255),
    ):
        drawn = draw_regions(picture, [region])
        assert drawn.shape == picture.shape
        assert (np.abs(drawn.astype(int) - ink).max(axis=2) < 60).sum() > 10
    assert (draw_regions(picture, [Region("nothing of it", (9, 9, 9), inside & False)]) == 100).all()
    assert draw_regions(picture[:4, :5], [Region("long", (9, 9, 9), None, (0, 0, 2, 2))]).shape == (4, 5, 3)


def test_neighbours_differ_in_colour() -> None:
    colours = np.array([colour_of(i) for i in range(-5, 50)])
    assert len(np.unique(colours, axis=0)) == len(colours)
    assert np.abs(colours[1:] - colours[:-1]).sum(axis=1).min() > 150
