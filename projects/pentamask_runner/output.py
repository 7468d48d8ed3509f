"""Results for people and for other programs: drawings, COCO's format, panoptic PNG files."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from .drawing import Region, colour_of, draw_regions
from .runner import Result


def draw(
    pixels: np.ndarray,
    result: Result,
    things: Sequence[str],
    stuff: Sequence[str] = (),
    identities: Sequence[int | None] | None = None,
) -> np.ndarray:
    """A picture (H, W, 3) uint8 with what was found: the segments of a panoptic map, else masks or boxes.

    Args:
        pixels: the picture, RGB.
        result: what was found in it.
        things, stuff: names of the classes; those without are called by their number.
        identities: in a video, a number for each instance, or each segment: written down and seen by its colour.
    """
    if result.panoptic is not None:
        ids, segments = result.panoptic
        regions = []
        for segment, identity in zip(segments, identities or [None] * len(segments)):
            label, is_thing = segment["category_id"], segment["isthing"]
            name, score = (_name(things, label), segment.get("score")) if is_thing else (_name(stuff, label), None)
            number = segment["id"] if is_thing else -1 - label
            regions.append(_region(name, score, number, identity, ids == segment["id"]))
        return draw_regions(pixels, regions)
    masks = [None] * len(result.scores) if result.masks is None else result.masks
    regions = [
        _region(_name(things, label), score, i, identity, mask, box)
        for i, (label, score, identity, mask, box) in enumerate(
            zip(result.classes, result.scores, identities or [None] * len(masks), masks, result.boxes.tolist())
        )
    ]
    return draw_regions(pixels, regions[::-1])  # the best on top


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def _region(
    name: str,
    score: float | None,
    number: int,
    identity: int | None,
    mask: np.ndarray | None,
    box: Sequence[float] | None = None,
) -> Region:
    """With all that is known in its caption, and the colour of its identity, else of its number."""
    caption = name if score is None else f"{name} {score:.0%}"
    if identity is None:
        return Region(caption, colour_of(number), mask, box)
    return Region(f"{caption} #{identity}", colour_of(identity), mask, box)


def coco_results(result: Result, image_id: int, file_name: str, dataset_ids: list[int]) -> list[dict[str, Any]]:
    """The instances in COCO's format of results, boxes XYWH and masks as compressed RLE.

    Args:
        result: of a picture.
        image_id, file_name: of the picture.
        dataset_ids: COCO's category ids of the classes; empty where the model's are to be used.
    """
    entries = []
    for i, (x1, y1, x2, y2) in enumerate(result.boxes.tolist()):
        label = int(result.classes[i])
        entry = {"image_id": image_id, "file_name": file_name, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        entry |= {"category_id": dataset_ids[label] if dataset_ids else label, "score": float(result.scores[i])}
        if result.mask_scores is not None:
            entry["mask_score"] = float(result.mask_scores[i])
        if result.masks is not None:
            entry["segmentation"] = encode_rle(result.masks[i])
        entries.append(entry)
    return entries


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W) bool: column by column, five bits a character."""
    values = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    counts = np.diff(np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1])])).tolist()
    text = []
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        while True:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text.append(chr(bits + 32 * more + 48))
            if not more:
                break
    return {"size": list(mask.shape), "counts": "".join(text)}


def save_panoptic(result: Result, folder: str, name: str) -> None:
    """NAME.png with COCO's coding of the segments' ids in colours, and NAME.json with what they are."""
    assert result.panoptic is not None
    ids, segments = result.panoptic
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    Image.fromarray(colours).save(os.path.join(folder, f"{name}.png"))
    with open(os.path.join(folder, f"{name}.json"), "w") as file:
        json.dump(segments, file)
