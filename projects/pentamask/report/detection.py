"""Average precision of saved predictions, by COCO's own evaluation.

T IoU thresholds, R recalls, K classes, A ranges of area, M limits of detections, as in `COCOeval.eval`.
"""

import contextlib
import io
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import _evaluate_predictions_on_coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pentamask.evaluation.coco import MaskScoreCOCOEvaluator, detection_limits, has_mask_scores, ranked_by_mask

from .runs import read_results

RESULTS = "coco_instances_results.json"
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first of COCOeval.stats
_AREAS = {"APs": 1, "APm": 2, "APl": 3}


@dataclass
class Detections:
    """The evaluation of one kind of prediction.

    Attributes:
        task: "bbox" or "segm".
        coco: the ground truth.
        evaluated: COCO's evaluation of the predictions.
        names: of the K classes, in the order of `evaluated.params.catIds`.
    """

    task: str
    coco: COCO
    evaluated: COCOeval
    names: list[str]

    def metrics(self) -> dict[str, float]:
        """The evaluator's numbers, in percent; NaN where there are no such objects."""
        return {name: _percent(value) for name, value in zip(_METRICS, self.evaluated.stats)}

    def by_class(self) -> list[dict[str, Any]]:
        """For each class "name", "objects" and the same numbers."""
        precision = self.evaluated.eval["precision"][..., -1]
        rows = []
        for k, name in enumerate(self.names):
            own = precision[:, :, k]
            values = {"AP": own[:, :, 0], "AP50": own[0, :, 0], "AP75": own[5, :, 0]}
            values |= {metric: own[:, :, area] for metric, area in _AREAS.items()}
            objects = len(self.coco.getAnnIds(catIds=[self.evaluated.params.catIds[k]], iscrowd=False))
            rows.append({"name": name, "objects": objects, **{key: _percent(_mean(x)) for key, x in values.items()}})
        return rows

    def precision_at_recall(self) -> np.ndarray:
        """(T, R, K) precision of all sizes, NaN for classes without objects."""
        precision = self.evaluated.eval["precision"][:, :, :, 0, -1]
        return np.where(precision < 0, np.nan, precision)


def _percent(value: float) -> float:
    return float(value) * 100 if value >= 0 else float("nan")


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0


def load_results(folder: str) -> list[dict] | None:
    """The predictions that a COCO evaluator wrote into a folder; None if it did not."""
    return read_results(os.path.join(folder, RESULTS))


def load_truth(dataset: str) -> COCO:
    """The ground truth of a registered dataset as its evaluator sees it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        return MaskScoreCOCOEvaluator(dataset, output_dir=folder)._coco_api


def class_names(coco: COCO) -> list[str]:
    """Those of the ground truth, in the order of `Detections.names`."""
    return [coco.cats[i]["name"] for i in sorted(coco.cats)]


def evaluate_results(coco: COCO, results: list[dict]) -> list[Detections]:
    """COCO's evaluation of masks, if there are any, and boxes, with the evaluator's own settings.

    Args:
        coco: from `load_truth`.
        results: from `load_results`, at least one.
    """
    names, found = class_names(coco), []
    for task in ("segm", "bbox") if "segmentation" in results[0] else ("bbox",):
        ranked = ranked_by_mask(results) if task == "segm" and has_mask_scores(results) else results
        with contextlib.redirect_stdout(io.StringIO()):
            evaluated = _evaluate_predictions_on_coco(
                coco, ranked, task, cocoeval_fn=COCOeval, max_dets_per_image=detection_limits(results)
            )
        found.append(Detections(task, coco, evaluated, names))
    return found
