"""Pictures of the worst and the best images: input, ground truth and prediction."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from panopticapi.utils import rgb2id
from PIL import Image

from pentamask.evaluation.panoptic import PREDICTIONS, SEGMENTS_FOLDER
from pentamask.visualize.side_by_side import draw_row

from .errors import KINDS, Errors
from .runs import read_results

_PANEL = 320  # pixels of the longer side of one picture
_EXAMPLES = 3  # images at least of each kind of error


@dataclass
class Card:
    """One image of the gallery.

    Attributes:
        image: its id.
        quality: F1 of its detections, 0-1; None without evaluated instances.
        errors: how often each kind occurs.
        classes: names of what is in it or was found.
        lines: each error in words.
    """

    image: Any
    quality: float | None = None
    errors: Counter[str] = field(default_factory=Counter)
    classes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def choose_cards(errors: Errors, names: list[str], count: int) -> list[Card]:
    """The `count` images to show, worst first: three of four are the worst, and every kind of error has examples."""
    cards: dict[Any, Card] = {}
    hits: Counter[Any] = Counter()
    for x in errors.confident():
        card = cards.setdefault(x.image, Card(x.image))
        card.classes.append(names[x.label])
        if x.kind == "correct":
            hits[x.image] += 1
            continue
        card.errors[x.kind] += 1
        near = f" on {names[x.truth]}, IoU {x.iou:.2f}" if x.truth is not None and x.kind != "background" else ""
        card.lines.append(f"{x.kind}: {names[x.label]} {x.score:.0%}{near}")
    for image, label in errors.missed:
        card = cards.setdefault(image, Card(image))
        card.errors["missed"] += 1
        card.classes.append(names[label])
        card.lines.append(f"missed: {names[label]}")
    for card in cards.values():
        wrong = sum(card.errors.values())
        card.quality = 2 * hits[card.image] / max(2 * hits[card.image] + wrong, 1)
        card.classes = sorted(set(card.classes))
    ranked = sorted(cards.values(), key=lambda card: (card.quality, -sum(card.errors.values())))
    num_best = min(count // 4, len(ranked))
    chosen = ranked[: count - num_best] + ranked[len(ranked) - num_best :]
    for kind in KINDS:
        chosen += sorted((card for card in ranked if card.errors[kind]), key=lambda card: -card.errors[kind])[
            :_EXAMPLES
        ]
    shown = {card.image for card in chosen}
    return [card for card in ranked if card.image in shown]


def draw_cards(
    cards: list[Card], dataset: str, folder: str, results: list[dict], metadata: Metadata, threshold: float, output: str
) -> dict[Any, str]:
    """Write a picture of each card: what the model got, the ground truth, what it found.

    Args:
        cards: of images of `dataset`.
        folder: with the saved predictions; panoptic ones are drawn where they are there.
        results: the saved instances.
        metadata: of the dataset, with class names.
        threshold: lowest score to draw.
        output: folder to write into.

    Returns:
        By image the file's name.
    """
    records = {record["image_id"]: record for record in DatasetCatalog.get(dataset)}
    by_image: dict[Any, list[dict]] = {}
    for result in results:
        if result["score"] >= threshold:
            by_image.setdefault(result["image_id"], []).append(result)
    segments = load_segments(folder) or {}
    os.makedirs(output, exist_ok=True)
    names = {}
    for number, card in enumerate(cards):

        def predict(image: np.ndarray, key: Any = card.image) -> dict:
            if key in segments:
                return _panoptic(os.path.join(folder, SEGMENTS_FOLDER), segments[key], metadata)
            return {"instances": _instances(by_image.get(key, []), image.shape[:2], metadata)}

        row = draw_row(records[card.image], predict, metadata, _PANEL)
        names[card.image] = f"{number:04d}.jpg"
        # As wide as the headings of the columns in the page.
        row = [np.pad(x, ((0, 0), (0, max(0, _PANEL - x.shape[1])), (0, 0)), constant_values=255) for x in row]
        Image.fromarray(np.concatenate(row, axis=1)).save(os.path.join(output, names[card.image]), quality=85)
    return names


def load_segments(folder: str) -> dict[Any, dict] | None:
    """What a panoptic evaluator wrote into a folder, by image; None without them or without their PNG files."""
    found = read_results(os.path.join(folder, PREDICTIONS))
    if found is None or not os.path.isdir(os.path.join(folder, SEGMENTS_FOLDER)):
        return None
    return {x["image_id"]: x for x in found["annotations"]}


def _panoptic(folder: str, prediction: dict, metadata: Metadata) -> dict:
    """A model's output of the kind "panoptic_seg" from files in COCO's format."""
    id_map = rgb2id(np.asarray(Image.open(os.path.join(folder, prediction["file_name"])).convert("RGB")))
    things = metadata.thing_dataset_id_to_contiguous_id
    stuff = metadata.stuff_dataset_id_to_contiguous_id
    infos = []
    for segment in prediction["segments_info"]:
        category, isthing = segment["category_id"], segment["category_id"] in things
        infos.append({**segment, "isthing": isthing, "category_id": (things if isthing else stuff)[category]})
    return {"panoptic_seg": (torch.as_tensor(id_map.astype(np.int32)), infos)}


def _instances(results: list[dict], size: tuple[int, int], metadata: Metadata) -> Instances:
    """Detectron2's `Instances` from results in COCO's format, whose categories are the dataset's."""
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    boxes = [BoxMode.convert(x["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for x in results]
    instances = Instances(
        size,
        pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        scores=torch.tensor([x["score"] for x in results]),
        pred_classes=torch.tensor([ids.get(x["category_id"], x["category_id"]) for x in results], dtype=torch.int64),
    )
    if results and "segmentation" in results[0]:
        masks = np.stack([mask_util.decode(x["segmentation"]) for x in results])
        instances.pred_masks = torch.as_tensor(masks.astype(bool))
    return instances
