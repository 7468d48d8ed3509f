"""One label per pixel: from instances and semantic classes, or from the masks of things and stuff.

Both give the segments' ids (H, W) int32, 0 void, and Detectron2's `segments_info`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Panoptic = tuple[np.ndarray, list[dict]]


def combine(
    masks: np.ndarray, scores: np.ndarray, classes: np.ndarray, labels: np.ndarray, options: dict[str, float]
) -> Panoptic:
    """Instances first, best score first, each on what is still free; then the semantic classes (Panoptic FPN).

    Args:
        masks: (n, H, W) bool.
        scores, classes: (n,).
        labels: (H, W) semantic classes, 0 for all things.
        options: "overlap_thresh": an instance of which a larger share is taken is left out; "stuff_area_limit": fewest
            pixels of stuff; "instances_score_thresh".
    """
    ids = np.zeros(labels.shape, dtype=np.int32)
    infos: list[dict] = []
    for i in np.argsort(-scores, kind="stable"):
        area = int(masks[i].sum())
        if scores[i] < options["instances_score_thresh"] or area == 0:
            continue
        free = masks[i] & (ids == 0)
        if (area - int(free.sum())) / area > options["overlap_thresh"]:
            continue
        infos.append({"id": len(infos) + 1, "isthing": True, "score": float(scores[i]), "category_id": int(classes[i])})
        infos[-1]["instance_id"] = int(i)
        ids[free] = infos[-1]["id"]
    for label in np.unique(labels[ids == 0]):
        pixels = (labels == label) & (ids == 0)
        area = int(pixels.sum())
        if label == 0 or area < options["stuff_area_limit"]:
            continue
        infos.append({"id": len(infos) + 1, "isthing": False, "category_id": int(label), "area": area})
        ids[pixels] = infos[-1]["id"]
    return ids, infos


# Number of the mask, its pixels (H, W) bool, its score; no pixel twice.
_Segments = Iterable[tuple[int, np.ndarray, float]]


def merge(
    maps: list[np.ndarray], class_scores: np.ndarray, scores: np.ndarray, labels: np.ndarray, options: dict[str, Any]
) -> Panoptic:
    """Panoptic SegFormer's masks, by the rule of its config; segments of one stuff class become one.

    Args:
        maps: of each mask (H, W) float32, inside above 0.5.
        class_scores, scores: of each, without and with the quality of the mask.
        labels: of each; things are below options["num_things"].
        options: "rule", thresholds as in `MODEL.PANOPTIC_SEGFORMER.MERGE`, "num_things", "category_ids" of the labels.
    """
    size = maps[0].shape
    ids, num_things = np.zeros(size, dtype=np.int32), 0
    infos: list[dict] = []
    stuff: dict[int, dict] = {}
    for i, pixels, score in _RULES[options["rule"]](maps, class_scores, scores, labels, options):
        label, area = int(labels[i]), int(pixels.sum())
        if label in stuff:
            info = stuff[label]
            info["area"] += area
        else:
            category = options["category_ids"][label]
            isthing = label < options["num_things"]
            info = {"id": len(infos) + 1, "isthing": isthing, "category_id": category, "score": score, "area": area}
            infos.append(info)
            if isthing:
                info["instance_id"], num_things = num_things, num_things + 1
            else:
                stuff[label] = info
        ids[pixels] = info["id"]
    return ids, infos


def _mask_wise(
    maps: list[np.ndarray], class_scores: np.ndarray, scores: np.ndarray, labels: np.ndarray, options: dict[str, Any]
) -> _Segments:
    """Best score first, every mask takes what is still free."""
    occupied = np.zeros(maps[0].shape, dtype=bool)
    for i in np.argsort(-scores, kind="stable"):
        kind = "things" if labels[i] < options["num_things"] else "stuff"
        inside = maps[i] > 0.5
        area = int(inside.sum())
        if scores[i] < options[f"quality_thresh_{kind}"] or area == 0:
            continue
        if np.float32((inside & occupied).sum()) / np.float32(area) > options[f"overlap_thresh_{kind}"]:
            continue
        free = inside & ~occupied
        occupied |= free
        if free.any():
            yield int(i), free, float(scores[i])


def _pixel_argmax(
    maps: list[np.ndarray], class_scores: np.ndarray, scores: np.ndarray, labels: np.ndarray, options: dict[str, Any]
) -> _Segments:
    """Every pixel goes to the mask with the largest value there, if it is above 0.5."""
    owner, inside = _argmax(maps, np.ones_like(class_scores), class_scores > options["class_thresh"])
    for i in np.unique(owner[inside]):
        yield int(i), (owner == i) & inside, float(class_scores[i])


def _maskformer(
    maps: list[np.ndarray], class_scores: np.ndarray, scores: np.ndarray, labels: np.ndarray, options: dict[str, Any]
) -> _Segments:
    """Every pixel goes to the largest class score times mask value; a segment must keep a share of its mask."""
    owner, inside = _argmax(maps, class_scores, class_scores > options["class_thresh"])
    for i in np.unique(owner[owner >= 0]):
        pixels = (owner == i) & inside
        if pixels.any() and (owner == i).sum() >= options["keep_fraction"] * (maps[i] > 0.5).sum():
            yield int(i), pixels, float(class_scores[i])


_RULES: dict[str, Callable[..., _Segments]] = {
    "mask_wise": _mask_wise,
    "pixel_argmax": _pixel_argmax,
    "maskformer": _maskformer,
}


def _argmax(maps: list[np.ndarray], weights: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel the kept mask of largest weight * value, -1 where all are 0, and whether its value is above 0.5."""
    best = np.zeros(maps[0].shape, dtype=np.float32)
    owner = np.full(best.shape, -1)
    inside = np.zeros(best.shape, dtype=bool)
    for i in np.flatnonzero(keep):
        better = maps[i] * weights[i] > best
        best = np.where(better, maps[i] * weights[i], best)
        owner[better] = i
        inside = np.where(better, maps[i] > 0.5, inside)
    return owner, inside
