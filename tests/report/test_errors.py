"""Every kind of error is recognised, on pictures where each is known."""

from collections import Counter

import numpy as np
import pytest
from report_samples import FOUND

from pentamask.report import errors as module
from pentamask.report.detection import evaluate_results, load_results, load_truth
from pentamask.report.errors import Detection, best_threshold, calibration, find_errors


@pytest.fixture
def masks(run):
    return evaluate_results(load_truth("two_pictures"), load_results(run / "inference"))[0]


def test_kinds_of_errors(masks, monkeypatch):
    monkeypatch.setattr(module, "best_threshold", lambda *args: 0.0)
    errors = find_errors(masks)
    found = {(x.image, x.score): x for x in errors.detections}
    assert [found[image, score].kind for image, _, _, score, _ in FOUND] == [kind for *_, kind in FOUND]
    ious = [found[image, score].iou for image, _, _, score, _ in FOUND]
    assert ious == pytest.approx([1, 9 / 11, 1, 1 / 3, 1 / 3, 0])
    # The first picture's "two" has a detection of the wrong class, the second's "one" a displaced one.
    assert [(x.image, x.label) for x in errors.missed] == [(2, 1)]
    assert errors.counts() == Counter([*(kind for *_, kind in FOUND), "missed"])
    assert found[1, 0.7].truth == 1 and found[2, 0.6].truth == 1
    # Rows truth, columns prediction, background last; matched by IoU alone.
    assert errors.confusion.tolist() == [[1, 0, 1], [1, 0, 1], [3, 1, 0]]


def test_what_is_below_the_threshold_does_not_count(masks, monkeypatch):
    monkeypatch.setattr(module, "best_threshold", lambda *args: 0.92)
    errors = find_errors(masks)
    assert errors.counts() == Counter({"localisation": 1, "missed": 3})
    assert errors.confusion.sum(axis=1).tolist() == [2, 2, 1]


def test_the_threshold_of_the_best_f1():
    scores = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6}
    # F1 over 3 objects: 2/4, 4/5, 4/6, 6/7.
    assert best_threshold(scores, {1, 2, 4}, 3) == 0.6
    assert best_threshold(scores, {1, 2}, 3) == 0.8 and best_threshold({}, set(), 3) == 0.0


def test_calibration_by_hand():
    def make(score, kind):
        return Detection(1, 0, score, 0.0, kind, None)

    parts = [make(0.95, "correct"), make(0.93, "both"), make(0.25, "background"), make(1.0, "correct")]
    confidence, precision, counts, error = calibration(parts)
    assert counts.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 3]
    assert confidence[9] == pytest.approx(0.96) and precision[9] == pytest.approx(2 / 3) and np.isnan(precision[0])
    assert error == pytest.approx((0.25 + 3 * (0.96 - 2 / 3)) / 4)
    assert calibration([])[3] == 0
