"""Mask AP by mask scores, worked out by hand on one image with one object."""

import math

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

import pentamask  # noqa: F401
from pentamask.evaluation.coco import MaskScoreCOCOEvaluator


def evaluate(tmp_path, **fields):
    """AP of two detections in the first image with an object: the object itself, and an empty corner."""
    record = next(r for r in DatasetCatalog.get("shapes_val") if r["annotations"])
    height, width = record["height"], record["width"]
    evaluator = MaskScoreCOCOEvaluator("shapes_val", output_dir=str(tmp_path), distributed=False)
    truth = evaluator._coco_api.loadAnns(evaluator._coco_api.getAnnIds(imgIds=[record["image_id"]], iscrowd=0))[0]
    x, y, w, h = truth["bbox"]
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0] = torch.from_numpy(evaluator._coco_api.annToMask(truth)).bool()
    masks[1, :2, :2] = True
    instances = Instances((height, width))
    instances.pred_boxes = Boxes(torch.tensor([[x, y, x + w, y + h], [0.0, 0, 2, 2]]))
    label = evaluator._metadata.thing_dataset_id_to_contiguous_id[truth["category_id"]]
    instances.pred_classes = torch.tensor([label, label])
    instances.pred_masks = masks
    for name, value in fields.items():
        instances.set(name, torch.tensor(value))
    evaluator.reset()
    evaluator.process([{"image_id": record["image_id"]}], [{"instances": instances}])
    results = evaluator.evaluate(img_ids=[record["image_id"]])
    name = f"AP-{evaluator._metadata.thing_classes[label]}"
    return results["bbox"][name], results["segm"][name]


@pytest.mark.parametrize(
    ("fields", "order"),
    [
        ({"scores": [0.9, 0.1]}, (1, 1)),
        ({"scores": [0.1, 0.9]}, (2, 2)),
        ({"scores": [0.9, 0.1], "mask_scores": [0.1, 0.9]}, (1, 2)),
        ({"scores": [0.1, 0.9], "mask_scores": [0.9, 0.1]}, (2, 1)),
    ],
)
def test_masks_are_ranked_by_their_own_score(shapes, tmp_path, fields, order):
    """Ranked first, the right detection has the highest precision; ranked second, half of it."""
    bbox, segm = evaluate(tmp_path, **fields)
    single = evaluate(tmp_path, scores=[0.9, 0.1])[0]
    assert bbox == pytest.approx(single / order[0], abs=0.01)
    assert segm == pytest.approx(single / order[1], abs=0.01)


def test_predictions_on_disk_hold_both_scores(shapes, tmp_path):
    import json

    evaluate(tmp_path, scores=[0.5, 0.25], mask_scores=[0.125, 0.75])
    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [(r["score"], r["mask_score"]) for r in results] == [(0.5, 0.125), (0.25, 0.75)]


def test_a_model_that_finds_nothing_has_the_metrics_of_masks(shapes, tmp_path):
    """So that a training that chooses its best model by them goes on when its first evaluation finds nothing yet."""
    (record,) = DatasetCatalog.get("shapes_val")[:1]
    size = record["height"], record["width"]
    nothing = Instances(size, pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    nothing.set("pred_classes", torch.zeros(0, dtype=torch.long))
    for masks, tasks in (({}, ["bbox"]), ({"pred_masks": torch.zeros(0, *size, dtype=torch.bool)}, ["bbox", "segm"])):
        evaluator = MaskScoreCOCOEvaluator("shapes_val", output_dir=str(tmp_path), distributed=False)
        evaluator.reset()
        evaluator.process([record], [{"instances": Instances(size, **nothing.get_fields(), **masks)}])
        results = evaluator.evaluate()
        assert list(results) == tasks
        assert all(math.isnan(value["AP"]) for value in results.values())
