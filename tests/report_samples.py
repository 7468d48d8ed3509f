"""Saved predictions on two generated pictures, with one error of each kind."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

# Image, class, box XYWH.
OBJECTS = (
    (1, 1, (10, 10, 20, 20)),
    (1, 2, (60, 10, 20, 20)),
    (2, 1, (10, 10, 20, 20)),
    (2, 2, (60, 60, 20, 20)),
)
# The same, the score, and what it is; IoUs are 1, 9 / 11, 1, 1 / 3, 1 / 3 and 0.
FOUND = (
    (1, 1, (10, 10, 20, 20), 0.9, "correct"),
    (1, 1, (12, 10, 20, 20), 0.8, "duplicate"),
    (1, 1, (60, 10, 20, 20), 0.7, "classification"),
    (2, 1, (10, 20, 20, 20), 0.95, "localisation"),
    (2, 1, (60, 70, 20, 20), 0.6, "both"),
    (2, 2, (30, 80, 10, 10), 0.85, "background"),
)


def _rle(box: tuple[int, int, int, int]) -> dict:
    mask = np.zeros((100, 100), np.uint8, order="F")
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    rle = mask_util.encode(mask)
    return {**rle, "counts": rle["counts"].decode()}


def write_truth(folder: Path) -> str:
    """Write the pictures and their annotations into a folder; returns the file of annotations."""
    annotations, images = [], []
    for image in (1, 2):
        Image.fromarray(np.full((100, 100, 3), 90 * image, np.uint8)).save(folder / f"{image}.jpg")
        images.append({"id": image, "file_name": f"{image}.jpg", "height": 100, "width": 100})
    for i, (image, label, box) in enumerate(OBJECTS, 1):
        common = {"id": i, "image_id": image, "category_id": label, "iscrowd": 0, "area": box[2] * box[3]}
        annotations.append({**common, "bbox": list(box), "segmentation": _rle(box)})
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "<two> $\\frac$"}]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(truth))
    return str(folder / "truth.json")


def write_results(folder: Path) -> None:
    """Write the predictions as a COCO evaluator does."""
    results = [
        {"image_id": image, "category_id": label, "bbox": list(box), "score": score, "segmentation": _rle(box)}
        for image, label, box, score, _ in FOUND
    ]
    (folder / "coco_instances_results.json").write_text(json.dumps(results))
