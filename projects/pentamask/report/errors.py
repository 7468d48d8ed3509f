"""What kind of error each wrong detection is, from COCO's matches (TIDE, arXiv 2008.08115, section 2.2).

D detections and G objects of an image, K classes.
"""

import contextlib
import io
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .detection import Detections

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU of a match, and below which nothing is meant
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


class Detection(NamedTuple):
    """One detection.

    Attributes:
        image: its id.
        label: index of its class.
        score: 0-1.
        iou: with the object that it is nearest to, of its class if there is one with an IoU above `BACKGROUND`.
        kind: "correct", one of `KINDS`, or "ignored" for crowds.
        truth: the nearest object's index of class; None without one.
    """

    image: int
    label: int
    score: float
    iou: float
    kind: str
    truth: int | None


class Missed(NamedTuple):
    """An object that no detection accounts for: its image's id and the index of its class."""

    image: int
    label: int


@dataclass
class Errors:
    """The detections of a dataset, sorted by what they are.

    Attributes:
        threshold: the lowest score that counts, at which F1 is highest.
        detections: all of them, below the threshold too, where "duplicate" and so on are not told apart.
        missed: objects without a detection above the threshold.
        confusion: (K + 1, K + 1) counts above the threshold, rows truth, columns prediction, the background last;
            matched by IoU without regard to classes.
    """

    threshold: float
    detections: list[Detection]
    missed: list[Missed]
    confusion: np.ndarray

    def confident(self) -> list[Detection]:
        """Those above the threshold that count."""
        return [x for x in self.detections if x.score >= self.threshold and x.kind != "ignored"]

    def counts(self) -> Counter[str]:
        """How often each kind occurs above the threshold."""
        return Counter([x.kind for x in self.confident()] + ["missed"] * len(self.missed))


def find_errors(found: Detections) -> Errors:
    """Sort the detections of an evaluation, and the objects that it missed."""
    agnostic = _without_classes(found.evaluated)
    matched, ignored, unmatched_truth = _matches(found.evaluated)
    scores = {i: x["score"] for i, x in found.evaluated.cocoDt.anns.items() if i not in ignored}
    threshold = best_threshold(scores, set(matched), len(matched) + len(unmatched_truth))
    labels = {category: k for k, category in enumerate(found.evaluated.params.catIds)}
    detections, missed = [], []
    for image in found.evaluated.params.imgIds:
        own, left = _sort_image(agnostic, image, labels, matched, ignored, unmatched_truth, threshold)
        detections += own
        missed += left
    return Errors(threshold, detections, missed, _confusion(agnostic, labels, threshold))


def find_nothing(coco: COCO) -> Errors:
    """The errors of a model without detections: it missed every object."""
    labels = {category: k for k, category in enumerate(sorted(coco.cats))}
    objects = [x for x in coco.anns.values() if not x.get("iscrowd", 0)]
    missed = [Missed(x["image_id"], labels[x["category_id"]]) for x in objects]
    return Errors(0.0, [], missed, np.zeros((len(labels) + 1, len(labels) + 1), dtype=int))


def _without_classes(evaluated: COCOeval) -> COCOeval:
    """COCO's evaluation of the same predictions at IoU 0.5, with everything in one class."""
    agnostic = COCOeval(evaluated.cocoGt, evaluated.cocoDt, evaluated.params.iouType)
    agnostic.params.useCats = 0
    agnostic.params.imgIds = evaluated.params.imgIds
    agnostic.params.iouThrs = np.array([FOREGROUND])
    agnostic.params.areaRng, agnostic.params.areaRngLbl = agnostic.params.areaRng[:1], ["all"]
    agnostic.params.maxDets = evaluated.params.maxDets[-1:]
    with contextlib.redirect_stdout(io.StringIO()):
        agnostic.evaluate()
    return agnostic


def _matches(evaluated: COCOeval) -> tuple[dict[int, int], set[int], set[int]]:
    """At IoU 0.5: the object of each right detection, ignored detections, and objects without a detection, by id."""
    matched, ignored, unmatched = {}, set(), set()
    for x in evaluated.evalImgs:
        if x is None or x["aRng"] != evaluated.params.areaRng[0]:
            continue
        for detection, truth, ignore in zip(x["dtIds"], x["dtMatches"][0], x["dtIgnore"][0]):
            if ignore:
                ignored.add(detection)
            elif truth > 0:
                matched[detection] = int(truth)
        unmatched |= {i for i, m, ignore in zip(x["gtIds"], x["gtMatches"][0], x["gtIgnore"]) if m == 0 and not ignore}
    return matched, ignored, unmatched


def best_threshold(scores: dict[int, float], correct: set[int], objects: int) -> float:
    """The score from which on detections have the highest F1 = 2 * right / (detections + objects).

    Args:
        scores: by the detection's id.
        correct: ids of the detections that are right.
        objects: how many there are.
    """
    if not scores:
        return 0.0
    order = sorted(scores, key=lambda i: -scores[i])
    f1 = 2 * np.cumsum([i in correct for i in order]) / (np.arange(1, len(order) + 1) + objects)
    return float(scores[order[int(f1.argmax())]])


def _sort_image(
    agnostic: COCOeval,
    image: int,
    labels: dict[int, int],
    matched: dict[int, int],
    ignored: set[int],
    unmatched_truth: set[int],
    threshold: float,
) -> tuple[list[Detection], list[Missed]]:
    truth = [x for category in labels for x in agnostic._gts[image, category]]
    found = [x for category in labels for x in agnostic._dts[image, category]]
    # As `COCOeval.computeIoU` orders them.
    found = [found[i] for i in np.argsort([-x["score"] for x in found], kind="mergesort")]
    found = found[: agnostic.params.maxDets[-1]]
    ious = np.asarray(agnostic.ious[image, -1], dtype=float).reshape(len(found), len(truth))
    ious = np.where([bool(x["iscrowd"]) for x in truth], 0.0, ious) if truth else ious
    same = np.array([[d["category_id"] == t["category_id"] for t in truth] for d in found], dtype=bool)
    same = same.reshape(ious.shape)
    detections, accounted = [], set()
    for d, own_ious, own_same in zip(found, ious, same):
        kind, nearest = _kind_of(own_ious, own_same)
        if d["id"] in ignored:
            kind = "ignored"
        elif d["id"] in matched:
            kind, nearest = "correct", next(i for i, t in enumerate(truth) if t["id"] == matched[d["id"]])
        iou, near = 0.0, None
        if nearest is not None:
            iou, near = float(own_ious[nearest]), labels[truth[nearest]["category_id"]]
            if d["score"] >= threshold and kind in ("localisation", "classification"):
                accounted.add(truth[nearest]["id"])
        detections.append(Detection(image, labels[d["category_id"]], float(d["score"]), iou, kind, near))
    candidates = unmatched_truth | {t for i, t in matched.items() if agnostic.cocoDt.anns[i]["score"] < threshold}
    missed = [t for t in truth if t["id"] in candidates and t["id"] not in accounted]
    return detections, [Missed(image, labels[t["category_id"]]) for t in missed]


def _kind_of(ious: np.ndarray, same: np.ndarray) -> tuple[str, int | None]:
    """What a detection without a match is, from its IoU (G,) with all objects and whether they are of its class, and
    the object that it is nearest to."""
    if not len(ious) or ious.max() < BACKGROUND:
        return "background", int(ious.argmax()) if len(ious) else None
    of_class, of_others = np.where(same, ious, -1.0), np.where(same, -1.0, ious)
    if BACKGROUND <= of_class.max() < FOREGROUND:
        return "localisation", int(of_class.argmax())
    if of_others.max() >= FOREGROUND:
        return "classification", int(of_others.argmax())
    if of_class.max() >= FOREGROUND:
        return "duplicate", int(of_class.argmax())
    return "both", int(of_others.argmax())


def _confusion(agnostic: COCOeval, labels: dict[int, int], threshold: float) -> np.ndarray:
    nothing = len(labels)
    counts = np.zeros((nothing + 1, nothing + 1), dtype=int)
    truths, found = agnostic.cocoGt.anns, agnostic.cocoDt.anns
    for x in agnostic.evalImgs:
        if x is None:
            continue
        taken = set()
        for i, truth, ignore in zip(x["dtIds"], x["dtMatches"][0], x["dtIgnore"][0]):
            if ignore or found[i]["score"] < threshold:
                continue
            taken.add(int(truth))
            row = labels[truths[int(truth)]["category_id"]] if truth > 0 else nothing
            counts[row, labels[found[i]["category_id"]]] += 1
        for i, ignore in zip(x["gtIds"], x["gtIgnore"]):
            if not ignore and i not in taken:
                counts[labels[truths[i]["category_id"]], nothing] += 1
    return counts


def calibration(detections: list[Detection], bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """How well scores say how many detections are right.

    Args:
        detections: those that count.
        bins: B, of equal width.

    Returns:
        By bin the mean score, the share of right detections, NaN where there are none, and their number, (B,) each; and
        the expected calibration error, the mean difference of the first two over all detections.
    """
    scores = np.array([x.score for x in detections])
    correct = np.array([x.kind == "correct" for x in detections], dtype=float)
    index = np.clip((scores * bins).astype(int), 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, scores, bins) / counts
        precision = np.bincount(index, correct, bins) / counts
    error = float(np.nansum(np.abs(confidence - precision) * counts) / max(len(scores), 1))
    return confidence, precision, counts, error
