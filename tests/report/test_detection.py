"""Numbers of saved predictions, worked out by hand."""

import json

import numpy as np
import pytest
from report_samples import OBJECTS

from pentamask.report.detection import evaluate_results, load_results, load_truth


def test_numbers_are_those_of_coco(run):
    masks, boxes = evaluate_results(load_truth("two_pictures"), load_results(run / "inference"))
    assert (masks.task, boxes.task) == ("segm", "bbox") and masks.names == ["one", "<two> $\\frac$"]
    # Of "one", the second detection finds one of two objects, at any IoU: precision 1/2 at 51 of 101 recalls.
    rows = masks.by_class()
    assert rows[0]["AP"] == pytest.approx(100 * 0.5 * 51 / 101) and rows[1]["AP"] == 0
    assert [row["objects"] for row in rows] == [2, len(OBJECTS) - 2]
    assert masks.metrics()["AP"] == pytest.approx((rows[0]["AP"] + rows[1]["AP"]) / 2)


def test_curves(run):
    masks, _ = evaluate_results(load_truth("two_pictures"), load_results(run / "inference"))
    precision = masks.precision_at_recall()
    assert precision.shape == (10, 101, 2)
    assert precision[0, :, 0] == pytest.approx([0.5] * 51 + [0.0] * 50)


def test_masks_are_ranked_by_their_own_scores(run):
    path = run / "inference" / "coco_instances_results.json"
    results = json.loads(path.read_text())
    for result in results:  # of "one", the right detection comes first
        result["mask_score"] = 1.0 if result["score"] == 0.9 else result["score"] / 2
    path.write_text(json.dumps(results))
    masks, boxes = evaluate_results(load_truth("two_pictures"), load_results(run / "inference"))
    assert masks.by_class()[0]["AP"] == pytest.approx(100 * 51 / 101)
    assert boxes.by_class()[0]["AP"] == pytest.approx(100 * 0.5 * 51 / 101)


def test_classes_without_objects_have_no_ap(run):
    coco = load_truth("two_pictures")
    coco.cats[3] = {"id": 3, "name": "three"}
    coco.dataset["categories"].append(coco.cats[3])
    masks, _ = evaluate_results(coco, load_results(run / "inference"))
    row = masks.by_class()[2]
    assert row["name"] == "three" and row["objects"] == 0 and np.isnan(row["AP"])


def test_without_predictions(tmp_path):
    assert load_results(str(tmp_path)) is None
