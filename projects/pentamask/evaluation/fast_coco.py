"""COCO's evaluation by the package hotcoco, if it is installed: pycocotools' numbers in a sixth of the time."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.evaluation import coco_evaluation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def has_fast_evaluation() -> bool:
    """Whether hotcoco is installed: `pip install pentamask[fast]`."""
    return importlib.util.find_spec("hotcoco") is not None


def fast_coco_eval(coco_gt: COCO, coco_dt: COCO, iou_type: str) -> Any:
    """As `COCOeval(coco_gt, coco_dt, iou_type)`, for boxes and masks by hotcoco."""
    if iou_type == "keypoints":
        return COCOeval(coco_gt, coco_dt, iou_type)
    import hotcoco

    return hotcoco.COCOeval(hotcoco.COCO(coco_gt.dataset), hotcoco.COCO(coco_dt.dataset), iou_type)


@contextmanager
def fast_evaluation() -> Iterator[None]:
    """Within, Detectron2's `COCOEvaluator` uses `fast_coco_eval`, for which it has no argument."""
    if not has_fast_evaluation():
        yield
        return
    official = coco_evaluation.COCOeval
    coco_evaluation.COCOeval = fast_coco_eval
    try:
        yield
    finally:
        coco_evaluation.COCOeval = official
