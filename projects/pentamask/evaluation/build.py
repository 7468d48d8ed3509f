"""Detectron2's evaluators for a dataset, chosen by its metadata as in Detectron2's own training script."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from detectron2.utils.file_io import PathManager
from PIL import Image

from .coco import MaskScoreCOCOEvaluator


def build_evaluator(dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """The evaluators of a registered dataset.

    Args:
        dataset_name: its name. Metadata `evaluator_type` decides; a dataset that a function registered, with
            `thing_classes` and without a type, is evaluated as COCO.
        output_folder: where predictions in the dataset's result format are written.

    Raises:
        ValueError: another `evaluator_type`, or metadata is missing that the evaluator reads.
        ImportError: the evaluator needs a package that is not installed.
    """
    metadata = MetadataCatalog.get(dataset_name)
    evaluator_type = metadata.get("evaluator_type")
    if evaluator_type is None and metadata.get("thing_classes"):
        evaluator_type = "coco"
    _make_if_generated(dataset_name, metadata)
    if evaluator_type in _OTHERS:
        build, package, fields = _OTHERS[evaluator_type]
        _check_requirements(dataset_name, metadata, package, fields)
        return build(dataset_name, output_folder)
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
            f"Dataset {dataset_name!r} has evaluator_type {evaluator_type!r}, expected one of coco, coco_panoptic_seg, "
            f"sem_seg, {', '.join(_OTHERS)}: set it with MetadataCatalog.get({dataset_name!r}).evaluator_type = ..."
        )
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


class _LVISEvaluator(LVISEvaluator):
    def evaluate(self) -> dict | None:
        """As the parent, with the name of NumPy 1 that the package lvis uses."""
        with _numpy_1_float():
            return super().evaluate()


@contextmanager
def _numpy_1_float() -> Iterator[None]:
    missing = "float" not in vars(np)
    if missing:
        np.float = float  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if missing:
            del np.float  # type: ignore[attr-defined]


# evaluator_type to its evaluator, from name and output folder; the package that it imports; the metadata that it reads.
_OTHERS: dict[str, tuple[Callable[[str, str], DatasetEvaluator], str | None, tuple[str, ...]]] = {
    "lvis": (lambda name, folder: _LVISEvaluator(name, output_dir=folder), "lvis", ("json_file",)),
    "cityscapes_instance": (
        lambda name, folder: CityscapesInstanceEvaluator(name),
        "cityscapesscripts",
        ("thing_classes", "gt_dir"),
    ),
    "cityscapes_sem_seg": (lambda name, folder: CityscapesSemSegEvaluator(name), "cityscapesscripts", ("gt_dir",)),
    "pascal_voc": (
        lambda name, folder: PascalVOCDetectionEvaluator(name),
        None,
        ("dirname", "split", "year", "thing_classes"),
    ),
}


def _check_requirements(name: str, metadata: Metadata, package: str | None, fields: tuple[str, ...]) -> None:
    missing = [field for field in fields if metadata.get(field) is None]
    if missing:
        raise ValueError(
            f"Dataset {name!r} has evaluator_type {metadata.evaluator_type!r}, whose evaluation needs the metadata "
            f"{', '.join(missing)}: set it with MetadataCatalog.get({name!r}).set(...), or choose another type."
        )
    try:
        if package is not None:
            importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"The evaluation of dataset {name!r} needs the package {package}: pip install {package} ({error})."
        ) from error


def _read_labels(path: str, dtype: type = int) -> np.ndarray:
    """The (H, W) labels of an image file. Detectron2's own function fails with numpy 2."""
    with PathManager.open(path, "rb") as file:
        return np.asarray(Image.open(file), dtype=dtype)


def _make_if_generated(dataset_name: str, metadata: Metadata) -> None:
    """Evaluators open the annotation file when they are built; that of a generated dataset appears on first load.

    `COCOEvaluator` enters the file that it converts a dataset to, which may have gone with its folder.
    """
    path = metadata.get("json_file")
    if not path or "://" in path or os.path.exists(path):
        return
    if os.path.basename(path) == f"{dataset_name}_coco_format.json":
        del metadata.json_file
    else:
        DatasetCatalog.get(dataset_name)
