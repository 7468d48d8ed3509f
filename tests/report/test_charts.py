"""What the charts of a report show."""

import numpy as np
import pytest

from pentamask.report import charts
from pentamask.report.errors import Detection, Errors
from pentamask.report.runs import Run


def lines(figure) -> dict:
    """By title of a chart, the curves as lists of points."""
    return {ax.get_title(): [line.get_xydata().tolist() for line in ax.lines] for ax in figure.axes if ax.lines}


def test_curves_of_two_trainings():
    first = Run("a", "", [{"iteration": i, "total_loss": 9 - i, "loss_x": 1.0, "loss_y": 0.0} for i in (0, 1, 2)])
    first.metrics += [{"iteration": 1, "total_loss": 5.0}, {"iteration": 3, "segm/AP": 20.0, "segm/AP50": 30.0}]
    second = Run("b", "", [{"iteration": 0, "total_loss": 7.0, "lr": 0.1}])
    found = charts.draw_training([first, second])
    assert list(found) == ["metrics", "total", "losses"]
    # A resumed training repeats iterations: the later value counts.
    assert lines(found["total"]) == {"total_loss": [[[0, 9], [1, 5], [2, 7]], [[0, 7]]], "lr": [[[0, 0.1]]]}
    assert lines(found["losses"]) == {"loss_x": [[[0, 1], [1, 1], [2, 1]]]}  # loss_y is 0 throughout
    assert lines(found["metrics"]) == {"segm/AP": [[[3, 20]]]}
    assert [text.get_text() for text in found["total"].axes[0].get_legend().get_texts()] == ["a", "b"]
    assert charts.draw_training([Run("c", "")]) == {}


def test_a_single_point_can_be_seen():
    found = charts.draw_training([Run("a", "", [{"iteration": 3, "total_loss": 9.0}])])
    assert found["total"].axes[0].lines[0].get_marker() == "o"


def test_errors_confusion_and_calibration():
    kinds = ["correct", "correct", "missed", "duplicate", "duplicate", "ignored"]
    detections = [Detection(1, 0, 0.8, 0.9, kind, 0) for kind in kinds if kind != "missed"]
    errors = Errors(0.5, detections, [], np.array([[3, 1], [0, 0]]))
    (ax,) = charts.draw_errors(errors).axes
    heights = dict(zip([x.get_text() for x in ax.get_xticklabels()], [bar.get_height() for bar in ax.patches]))
    assert heights == {**dict.fromkeys(heights, 0), "duplicate": 2} and "2 right" in ax.get_title()
    (ax,) = charts.draw_confusion(errors, ["a cat of the longest kind"]).axes
    assert ax.get_xticklabels()[0].get_text() == "a cat of the longest ki…"
    assert {text.get_text() for text in ax.texts} == {"3", "1"}
    assert ax.images[0].get_array()[0].tolist() == [0.75, 0.25]
    (ax,) = charts.draw_calibration(errors.confident()).axes
    assert ax.get_title() == "calibration error 0.300"  # 2 of 4 at a score of 0.8
    assert ax.lines[1].get_xydata()[0] == pytest.approx([0.8, 0.5])


def test_counts_are_plain_numbers():
    detections = [Detection(1, 0, 0.8, 0.9, "correct", 0)] * 12
    figure = charts.draw_scores(detections, 0.5)
    figure.canvas.draw()
    assert [x.get_text() for x in figure.axes[0].get_yticklabels()] == ["0", "1", "10"]
