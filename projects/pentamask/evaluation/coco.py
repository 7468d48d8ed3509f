"""COCO's average precision for models that score their masks by themselves."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import Metadata
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO

from .fast_coco import fast_evaluation

_COCO_LIMIT = 100  # detections of an image that count


class MaskScoreCOCOEvaluator(COCOEvaluator):
    """Detectron2's `COCOEvaluator`, except that mask AP ranks instances by `mask_scores` where they have them.

    Box AP and everything else go by `scores`. Results on disk hold "score" and "mask_score". As in its authors'
    released code, the first instance of the data set decides whether there are mask scores. It also evaluates the
    things of "standard" panoptic sets, at which the parent stops, and annotations that lack what can be filled in.
    Of a model with masks that finds nothing, mask AP is NaN as box AP is, and not missing.
    All predictions count where an image has more than COCO's 100, unless `max_dets_per_image` is given.
    """

    _metadata: Any
    _tasks: tuple[str, ...] | None

    def __init__(self, dataset_name: str, *, max_dets_per_image: int | None = None, **options: object) -> None:
        """Args: as those of `COCOEvaluator`."""
        # A converted dataset is not taken from an earlier run, whose data may have been another's.
        options = {"allow_cached_coco": False, **options}
        super().__init__(dataset_name, max_dets_per_image=max_dets_per_image, **options)
        self._counts_all = max_dets_per_image is None
        self._has_masks = False
        if self._do_evaluation:
            complete_annotations(self._coco_api)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Args: as those of `COCOEvaluator.process`; "instances" may have mask_scores (n,)."""
        done = len(self._predictions)
        super().process(inputs, outputs)
        instances = [output["instances"] for output in outputs if "instances" in output]
        self._has_masks |= any(x.has("pred_masks") for x in instances)
        for prediction, x in zip((p for p in self._predictions[done:] if "instances" in p), instances):
            if x.has("mask_scores"):
                for result, score in zip(prediction["instances"], x.mask_scores.tolist()):
                    result["mask_score"] = score

    @fast_evaluation()
    def _eval_predictions(self, predictions: list[dict], img_ids: list[int] | None = None) -> None:
        results = list(chain.from_iterable(p["instances"] for p in predictions))
        self._number_things(results)
        if self._counts_all:
            self._max_dets_per_image = detection_limits(results)
        wanted = self._tasks
        tasks = wanted or self._tasks_from_predictions(results)
        if not has_mask_scores(results) or "segm" not in tasks:
            super()._eval_predictions(predictions, img_ids)
            return
        by_mask = ranked_by_mask(results)
        others = tuple(task for task in tasks if task != "segm")
        try:
            for self._tasks, part in ((("segm",), by_mask), (others, results)):
                if self._tasks:
                    super()._eval_predictions([{"instances": part}], img_ids)
        finally:
            self._tasks = wanted
        if "segm" in self._results:
            self._results.move_to_end("segm")

    def _tasks_from_predictions(self, predictions: list[dict]) -> list[str]:
        tasks = super()._tasks_from_predictions(predictions)
        return tasks if predictions or not self._has_masks else [*tasks, "segm"]

    def _number_things(self, results: list[dict]) -> None:
        """Count things from 0 without gaps, as the parent asks; panoptic sets may number stuff in between."""
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id") or {}
        labels = {label: i for i, label in enumerate(sorted(ids.values()))}
        if all(label == i for label, i in labels.items()):
            return
        for result in results:
            result["category_id"] = labels[result["category_id"]]
        metadata = self._metadata.as_dict()
        metadata["thing_dataset_id_to_contiguous_id"] = {i: labels[label] for i, label in ids.items()}
        metadata["thing_classes"] = [metadata["thing_classes"][label] for label in labels]
        self._metadata = Metadata(**metadata)

    def _derive_coco_results(
        self, coco_eval: object, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        # Detectron2's "standard" panoptic sets name stuff under thing_classes too, which has no AP.
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if ids is not None and class_names is not None:
            class_names = [class_names[label] for label in sorted(ids.values())]
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


def detection_limits(results: list[dict]) -> list[int]:
    """COCO's limits of detections in an image, the last raised to the most that any image has."""
    most = max(Counter(result["image_id"] for result in results).values(), default=0)
    return [1, 10, max(_COCO_LIMIT, most)]


def has_mask_scores(results: list[dict]) -> bool:
    """Whether results rank masks by a score of their own; the first one decides."""
    return bool(results) and "mask_score" in results[0]


def ranked_by_mask(results: list[dict]) -> list[dict]:
    """Copies of results whose "score" is that of the mask."""
    return [{**result, "score": result["mask_score"]} for result in results]


def complete_annotations(coco: COCO) -> None:
    """Fill in what evaluation reads and annotations lack: "iscrowd" 0, "bbox" and "area" of the mask or of the box.

    Polygons of fewer than 3 points, which pycocotools takes for boxes, are left out beside others, as in training.
    """
    for annotation in coco.dataset["annotations"]:
        annotation.setdefault("iscrowd", 0)
        masks = annotation.get("segmentation")
        if isinstance(masks, list) and any(len(polygon) < 6 for polygon in masks):
            annotation["segmentation"] = [polygon for polygon in masks if len(polygon) >= 6] or masks
        if {"bbox", "area"} <= annotation.keys() or annotation["image_id"] not in coco.imgs:
            continue
        rle = coco.annToRLE(annotation) if masks else None
        if "bbox" not in annotation and rle is not None:
            annotation["bbox"] = mask_util.toBbox(rle).tolist()
        if "area" not in annotation:
            width, height = annotation["bbox"][2:]
            annotation["area"] = float(mask_util.area(rle)) if rle is not None else width * height
