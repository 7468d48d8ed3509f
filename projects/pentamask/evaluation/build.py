"""Detectron2's evaluators for a dataset, chosen by its metadata as in Detectron2's own training script."""

import os

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    SemSegEvaluator,
)
from detectron2.utils.file_io import PathManager
from PIL import Image

from .coco import MaskScoreCOCOEvaluator


def build_evaluator(dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """The evaluators of a registered dataset.

    Args:
        dataset_name: its name; metadata `evaluator_type` is one of "coco", "coco_panoptic_seg", "sem_seg", "lvis".
        output_folder: where predictions in the dataset's result format are written.

    Raises:
        ValueError: another `evaluator_type`, or none.
    """
    metadata = MetadataCatalog.get(dataset_name)
    evaluator_type = metadata.get("evaluator_type")
    _make_if_generated(dataset_name, metadata.get("json_file"))
    if evaluator_type == "lvis":
        return LVISEvaluator(dataset_name, output_dir=output_folder)
    evaluators = []
    # The "standard" form of COCO panoptic has no files of semantic labels to compare with.
    if evaluator_type == "sem_seg" or (evaluator_type == "coco_panoptic_seg" and metadata.get("sem_seg_root")):
        evaluators.append(SemSegEvaluator(dataset_name, output_dir=output_folder, sem_seg_loading_fn=_read_labels))
    # Panoptic sets may be registered without a file of instances, whose AP is not known then.
    if evaluator_type == "coco" or (evaluator_type == "coco_panoptic_seg" and metadata.get("json_file")):
        evaluators.append(MaskScoreCOCOEvaluator(dataset_name, output_dir=output_folder))
    if evaluator_type == "coco_panoptic_seg":
        from .panoptic import PanopticEvaluator  # needs panopticapi, which nothing else does

        evaluators.append(PanopticEvaluator(dataset_name, output_folder))
    if not evaluators:
        raise ValueError(
            f"Dataset {dataset_name!r} has evaluator_type {evaluator_type!r}, expected coco, coco_panoptic_seg, "
            f"sem_seg or lvis: set it with MetadataCatalog.get({dataset_name!r}).evaluator_type = ..."
        )
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _read_labels(path: str, dtype: type = int) -> np.ndarray:
    """The (H, W) labels of an image file. Detectron2's own function fails with numpy 2."""
    with PathManager.open(path, "rb") as file:
        return np.asarray(Image.open(file), dtype=dtype)


def _make_if_generated(dataset_name: str, json_file: str | None) -> None:
    """Evaluators open the annotation file when they are built; that of a generated dataset appears on first load."""
    if json_file and "://" not in json_file and not os.path.exists(json_file):
        DatasetCatalog.get(dataset_name)
