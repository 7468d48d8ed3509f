"""Panoptic quality of datasets that lack things or stuff, or fields that can be filled in."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import panopticapi.evaluation
from detectron2.data import Metadata
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from panopticapi.utils import rgb2id
from PIL import Image

# Below the evaluator's output folder.
SEGMENTS_FOLDER, PREDICTIONS, COMPLETED_TRUTH = "panoptic", "predictions.json", "panoptic_ground_truth.json"


class PanopticEvaluator(COCOPanopticEvaluator):
    """Detectron2's `COCOPanopticEvaluator`, except that data without things, or without stuff, has NaN for them.

    Ground-truth segments without "iscrowd" are not crowds, and the area of those without "area" is measured. Beside
    Detectron2's predictions.json the pictures of the predicted segments are kept in the folder "panoptic", so that both
    are a result in COCO's format.
    """

    _metadata: Any
    _output_dir: Any

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Args: as those of `COCOPanopticEvaluator.process`."""
        done = len(self._predictions)
        super().process(inputs, outputs)
        if self._output_dir is None:
            return
        folder = os.path.join(self._output_dir, SEGMENTS_FOLDER)
        PathManager.mkdirs(folder)
        for prediction in self._predictions[done:]:
            with PathManager.open(os.path.join(folder, prediction["file_name"]), "wb") as file:
                file.write(prediction["png_string"])

    def evaluate(self) -> dict | None:
        """The panoptic quality of everything, of things and of stuff in percent; None but in the main process."""
        if comm.is_main_process():
            self._complete_ground_truth()
        with _empty_groups_are_nan():
            return super().evaluate()

    def _complete_ground_truth(self) -> None:
        """Fill in what segments lack and let the parent read that instead."""
        with PathManager.open(self._metadata.panoptic_json) as file:
            truth = json.load(file)
        complete = True
        for annotation in truth["annotations"]:
            segments = annotation["segments_info"]
            if all({"iscrowd", "area"} <= segment.keys() for segment in segments):
                continue
            complete = False
            with PathManager.open(os.path.join(self._metadata.panoptic_root, annotation["file_name"]), "rb") as file:
                ids, areas = np.unique(rgb2id(np.asarray(Image.open(file).convert("RGB"))), return_counts=True)
            measured = dict(zip(ids.tolist(), areas.tolist()))
            for segment in segments:
                segment.setdefault("iscrowd", 0)
                segment.setdefault("area", measured.get(segment["id"], 0))
        if not complete:
            path = os.path.join(self._output_dir, COMPLETED_TRUTH)
            with PathManager.open(path, "w") as file:
                json.dump(truth, file)
            self._metadata = Metadata(**self._metadata.as_dict() | {"panoptic_json": path})


class _PQStat(panopticapi.evaluation.PQStat):
    def pq_average(self, categories: dict, isthing: bool | None) -> tuple[dict, dict]:
        """The parent divides by the number of classes that occur in the ground truth or in the predictions."""
        group = [label for label, info in categories.items() if isthing is None or isthing == (info["isthing"] == 1)]
        counts = (self.pq_per_cat[label] for label in group)
        if any(count.tp + count.fp + count.fn for count in counts):
            return super().pq_average(categories, isthing)
        nothing = {"pq": 0.0, "sq": 0.0, "rq": 0.0}
        return dict.fromkeys(nothing, float("nan")) | {"n": 0}, dict.fromkeys(group, nothing)


@contextmanager
def _empty_groups_are_nan() -> Iterator[None]:
    """Within, panopticapi, whose function Detectron2 calls in the middle of its own, takes averages by `_PQStat`."""
    original = panopticapi.evaluation.PQStat
    panopticapi.evaluation.PQStat = _PQStat
    try:
        yield
    finally:
        panopticapi.evaluation.PQStat = original


def quality_by_class(folder: str, metadata: Metadata) -> dict[str, Any]:
    """The panoptic quality of what a `PanopticEvaluator` wrote into `folder`.

    Returns:
        As `panopticapi.evaluation.pq_compute`, in 0-1: "All", "Things", "Stuff" with "pq", "sq", "rq" and the number of
        classes "n"; "per_class" by the dataset's category id, with the counts "tp", "fp" and "fn" as well.
    """
    completed = os.path.join(folder, COMPLETED_TRUTH)
    with PathManager.open(completed if os.path.exists(completed) else metadata.panoptic_json) as file:
        truth = json.load(file)
    with PathManager.open(os.path.join(folder, PREDICTIONS)) as file:
        predictions = {x["image_id"]: x for x in json.load(file)["annotations"]}
    categories = {category["id"]: category for category in truth["categories"]}
    pairs = [(x, predictions[x["image_id"]]) for x in truth["annotations"] if x["image_id"] in predictions]
    with _empty_groups_are_nan(), contextlib.redirect_stdout(io.StringIO()):
        segments = os.path.join(folder, SEGMENTS_FOLDER)
        found = panopticapi.evaluation.pq_compute_single_core(0, pairs, metadata.panoptic_root, segments, categories)
    results: dict[str, Any] = {}
    for name, isthing in (("All", None), ("Things", True), ("Stuff", False)):
        results[name], by_class = found.pq_average(categories, isthing)
        if isthing is None:
            counts = {i: {key: getattr(found[i], key) for key in ("tp", "fp", "fn")} for i in categories}
            results["per_class"] = {i: {**by_class[i], **counts[i]} for i in categories}
    return results
