"""The metadata decides which evaluators run."""

import sys

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)

import pentamask  # noqa: F401
from pentamask.evaluation import build_evaluator
from pentamask.evaluation.build import _LVISEvaluator
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


@pytest.mark.parametrize(
    ("evaluator_type", "missing"),
    [
        ("lvis", "json_file"),
        ("cityscapes_instance", "gt_dir"),
        ("cityscapes_sem_seg", "gt_dir"),
        ("pascal_voc", "dirname, split, year"),
    ],
)
def test_metadata_that_an_evaluator_lacks_is_named(tmp_path, evaluator_type, missing):
    MetadataCatalog.get("bare").set(thing_classes=["a"], evaluator_type=evaluator_type)
    try:
        with pytest.raises(ValueError, match=rf"'bare' has evaluator_type '{evaluator_type}'.* metadata {missing}: "):
            build_evaluator("bare", str(tmp_path))
    finally:
        MetadataCatalog.pop("bare")


def test_a_package_that_an_evaluator_lacks_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cityscapesscripts", None)
    MetadataCatalog.get("city").set(thing_classes=["car"], gt_dir="gt", evaluator_type="cityscapes_instance")
    try:
        with pytest.raises(ImportError, match="'city' needs the package cityscapesscripts: pip install cityscapes"):
            build_evaluator("city", str(tmp_path))
        monkeypatch.setitem(sys.modules, "cityscapesscripts", sys)
        assert isinstance(build_evaluator("city", str(tmp_path)), CityscapesInstanceEvaluator)
    finally:
        MetadataCatalog.pop("city")


def test_pascal_voc(tmp_path):
    metadata = {"dirname": str(tmp_path), "split": "test", "year": 2007, "thing_classes": ["cat"]}
    MetadataCatalog.get("voc").set(evaluator_type="pascal_voc", **metadata)
    try:
        assert isinstance(build_evaluator("voc", str(tmp_path)), PascalVOCDetectionEvaluator)
    finally:
        MetadataCatalog.pop("voc")


def test_lvis_is_given_the_float_of_numpy_1(monkeypatch):
    """lvis 0.5.3 has `astype(dtype=np.float)`; it is no dependency."""
    monkeypatch.setattr(LVISEvaluator, "evaluate", lambda self: {"AP": np.ones(1).astype(dtype=np.float)})
    evaluator = _LVISEvaluator.__new__(_LVISEvaluator)
    assert evaluator.evaluate()["AP"].dtype == float
    assert "float" not in vars(np)


def test_an_unknown_evaluator_type_is_an_error_with_the_remedy(tmp_path):
    MetadataCatalog.get("no_evaluator").evaluator_type = "other"
    with pytest.raises(ValueError, match=r"'no_evaluator' has evaluator_type 'other'.*MetadataCatalog"):
        build_evaluator("no_evaluator", str(tmp_path))
