"""Detections are matched by class and box, whatever their order."""

import numpy as np
import pytest

from pentamask.export.verify import Agreement, compare, print_agreement


def outputs(order: list[int]) -> dict[str, np.ndarray]:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 10]], np.float32)
    found = {"boxes": boxes, "scores": np.array([0.9, 0.5, 0.9]), "classes": np.array([0, 1, 2])}
    found["masks"] = np.full((3, 2, 2), 0.25, np.float32)
    return {name: x[order].copy() for name, x in found.items()}


def test_order_does_not_matter() -> None:
    assert compare(outputs([0, 1, 2]), outputs([2, 0, 1])) == Agreement(3, 3, 0, 0.0, 0.0, 0.0)


def test_differences_and_what_has_no_partner() -> None:
    other = outputs([0, 1, 2])
    other["boxes"][0] += 0.25
    other["masks"][1, 0, 0] = 0.75
    other["classes"][2] = 1
    found = compare(outputs([0, 1, 2]), other)
    assert (found.unmatched, found.boxes, found.masks) == (2, 0.25, 0.5) and not found.is_close


def test_one_at_the_lowest_score_may_be_missing() -> None:
    assert compare(outputs([0, 1, 2]), outputs([0, 2])).unmatched == 0
    assert compare(outputs([0, 1, 2]), outputs([0, 1])).unmatched == 1


def test_filled_up_rows_are_left_out() -> None:
    filled = outputs([0, 1, 2])
    filled["classes"][1] = -1
    assert compare(outputs([0, 2]), filled) == Agreement(2, 2, 0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("boxes", "close"), [(0.009, True), (0.011, False)])
def test_the_table_says_whether_all_are_close(boxes: float, close: bool, capsys: pytest.CaptureFixture) -> None:
    image = np.zeros((3, 20, 30), np.uint8)
    assert print_agreement([("a.jpg", image, Agreement(2, 2, 0, boxes, 0.0, 0.0))]) == close
    assert f"| a.jpg | 30 x 20 | 2 / 2 | 0 | {boxes:.1e} | 0.0e+00 | 0.0e+00 |" in capsys.readouterr().out
