"""The metadata decides which evaluators run."""

import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators, SemSegEvaluator

import pentamask  # noqa: F401
from pentamask.evaluation import build_evaluator
from pentamask.evaluation.coco import MaskScoreCOCOEvaluator
from pentamask.evaluation.panoptic import PanopticEvaluator


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shapes_val", [MaskScoreCOCOEvaluator]),
        ("shapes_val_panoptic", [MaskScoreCOCOEvaluator, PanopticEvaluator]),
        ("shapes_val_panoptic_separated", [SemSegEvaluator, MaskScoreCOCOEvaluator, PanopticEvaluator]),
        ("shapes_val_panoptic_stuffonly", [SemSegEvaluator]),
    ],
)
def test_evaluators_of_a_dataset(shapes, tmp_path, name, expected):
    evaluator = build_evaluator(name, str(tmp_path))
    parts = evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]
    assert [type(part) for part in parts] == expected


def test_an_unknown_evaluator_type_is_an_error_with_the_remedy(tmp_path):
    MetadataCatalog.get("no_evaluator").evaluator_type = "other"
    with pytest.raises(ValueError, match=r"'no_evaluator' has evaluator_type 'other'.*MetadataCatalog"):
        build_evaluator("no_evaluator", str(tmp_path))
