"""Looks at datasets while Detectron2 loads them, before it drops, changes or fails on anything."""

import gc
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import pycocotools.coco
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from pentamask.data.coco_checks import check_coco, check_shapes
from pentamask.data.findings import AnnotationTable, Findings
from pentamask.data.panoptic_checks import check_evaluated_file, check_panoptic, explain_panoptic_file
from pentamask.data.picture_checks import check_pictures

_MAX_PICTURES = 50  # that are opened before training, evenly taken; check_data opens all
logger = logging.getLogger(__name__)
_done: set[tuple] = set()  # what was checked already: an evaluation during training loads its data again


class DatasetError(ValueError):
    """A dataset has mistakes; the message lists them with files, images and annotations."""


@contextmanager
def checked_datasets(names: Sequence[str], *, train: bool, masks: str, pictures: bool = True) -> Iterator[None]:
    """Within, registered datasets are checked as soon as they are loaded.

    What is mended or left out is logged, one line for each kind.

    Args:
        names: of the datasets.
        train: whether they are to be learnt from.
        masks: "polygon" or "bitmask", what the objects' masks are to become, which then all need one; "" for no need.
        pictures: whether some of the pictures are opened.

    Raises:
        DatasetError: the data has mistakes.
    """
    if train:
        _done.clear()  # a training begins
    with ExitStack() as stack:
        for name in set(names) & set(DatasetCatalog):
            load = DatasetCatalog[name]
            if (name, load, train, masks) in _done:
                continue
            stack.callback(DatasetCatalog.__setitem__, name, load)
            DatasetCatalog[name] = _checked(name, load, train=train, masks=masks, pictures=pictures)
        yield


def _checked(
    name: str, load: Callable[[], list[dict]], *, train: bool, masks: str, pictures: bool
) -> Callable[[], list[dict]]:
    """The function of a registered dataset, with checks."""
    metadata = MetadataCatalog.get(name)

    def check_file(coco: dict) -> None:
        report(name, metadata.get("json_file"), check_coco(coco, train=train, masks=masks))

    def load_and_check() -> list[dict]:
        try:
            with _watched_coco_files(check_file) as seen, _paused_garbage_collection():
                records = load()
        except (KeyError, AssertionError, TypeError) as error:
            report(name, metadata.get("panoptic_json"), explain_panoptic_file(metadata, error))
            raise
        first = records[0] if isinstance(records, list) and records else {}
        if not seen and "annotations" in first:
            report(name, "registered by a function", check_records(records, metadata, masks=masks))
        if "pan_seg_file_name" in first:
            report(name, metadata.get("panoptic_json"), check_panoptic(records, train=train))
        path = metadata.get("panoptic_json")
        if not train and path and PathManager.isfile(path) and metadata.get("evaluator_type") == "coco_panoptic_seg":
            report(name, path, check_evaluated_file(records, path))
        if pictures and os.path.isdir(
            os.path.dirname(first.get("file_name", ""))
        ):  # else the missing folder is said elsewhere
            some = np.unique(np.linspace(0, len(records) - 1, _MAX_PICTURES).astype(int))
            report(name, f"{len(some)} of its pictures", check_pictures([records[i] for i in some])[1])
        _done.add((name, load, train, masks))
        return records

    return load_and_check


@contextmanager
def _watched_coco_files(check: Callable[[dict], None]) -> Iterator[list[str]]:
    """Within, `check` sees the contents of the COCO files that Detectron2 loads; yields a list of what was seen.

    Detectron2 parses a file by way of pycocotools in the middle of its own function, and parsing it once more would
    take longer than everything that is checked.
    """
    original = pycocotools.coco.COCO
    seen = []

    class WatchedCOCO(original):  # type: ignore[misc, valid-type]  # whatever stands there at the moment
        def createIndex(self) -> None:
            seen.append("annotations")
            check(self.dataset)
            super().createIndex()

    pycocotools.coco.COCO = WatchedCOCO
    try:
        yield seen
    finally:
        pycocotools.coco.COCO = original


@contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Within, Python does not look for garbage among the millions of objects of a large file again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def report(name: str, source: str | None, findings: Findings) -> None:
    """Log the notes on a dataset, and raise its errors.

    Args:
        name: of the dataset.
        source: file that the findings are about.
        findings: of a check.

    Raises:
        DatasetError: there are errors.
    """
    for note in findings.notes:
        logger.info("Dataset %r (%s): %s.", name, source, note)
    if findings.errors:
        listed = "\n".join(f"- {error}" for error in findings.errors)
        raise DatasetError(f"Dataset {name!r} ({source}) has mistakes:\n{listed}")


def check_records(records: list[dict], metadata: Metadata, *, masks: str) -> Findings:
    """Check Detectron2's records of images with "annotations", for datasets that no COCO file describes."""
    findings = Findings()
    images, annotations = {}, []
    classes = metadata.get("thing_classes")
    for i, record in enumerate(records):
        size = {key: record.get(key, np.nan) for key in ("height", "width")}
        images[i] = {"id": record.get("image_id", i), "file_name": record.get("file_name"), **size}
        for number, annotation in enumerate(record.get("annotations", ())):
            annotations.append({**annotation, "id": number, "image_id": i})
    table = AnnotationTable.of(annotations, images)
    without = [i for i, record in images.items() if record["file_name"] is None]
    findings.error('records without "file_name"', without)
    for key in ("category_id", *(["bbox_mode"] if any("bbox" in a for a in annotations) else [])):
        missing = [i for i, a in enumerate(annotations) if key not in a and (key != "bbox_mode" or "bbox" in a)]
        findings.error(f'annotations without "{key}"', missing, table.name)
    if findings.errors:
        return findings
    limit = len(classes) if classes is not None else np.inf
    wrong = [
        i
        for i, a in enumerate(annotations)
        if not (isinstance(a["category_id"], int) and 0 <= a["category_id"] < limit)
    ]
    findings.error(f'"category_id" that is no number from 0 to {limit - 1}', wrong, table.name)
    for annotation in annotations:
        if annotation.get("bbox_mode") == BoxMode.XYXY_ABS and len(annotation["bbox"]) == 4:
            x1, y1, x2, y2 = annotation["bbox"]
            annotation["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    check_shapes(table, findings, masks=masks)
    return findings
