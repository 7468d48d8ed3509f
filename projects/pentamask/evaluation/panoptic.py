"""Panoptic quality of datasets that lack things or stuff, or fields that can be filled in."""

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


class PanopticEvaluator(COCOPanopticEvaluator):
    """Detectron2's `COCOPanopticEvaluator`, except that data without things, or without stuff, has NaN for them.

    Ground-truth segments without "iscrowd" are not crowds, and the area of those without "area" is measured.
    """

    _metadata: Any

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
            path = os.path.join(self._output_dir, "panoptic_ground_truth.json")
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
