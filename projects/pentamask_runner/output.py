"""Results for people and for other programs: drawings, COCO's format, panoptic PNG files."""

import colorsys
import json
import os
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .runner import Result


def draw(pixels: np.ndarray, result: Result, names: list[str]) -> np.ndarray:
    """A picture (H, W, 3) uint8 with what was found: segments of a panoptic map, masks, boxes, names and scores."""
    blended = pixels.astype(np.float32)
    if result.panoptic is not None:
        ids, segments = result.panoptic
        for segment in segments:
            _tint(blended, ids == segment["id"], _colour(segment["id"]))
    elif result.masks is not None:
        for i, mask in enumerate(result.masks):
            _tint(blended, mask, _colour(i))
    image = Image.fromarray(blended.astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    for i, (box, score, label) in enumerate(zip(result.boxes.tolist(), result.scores, result.classes)):
        name = names[label] if label < len(names) else str(label)
        canvas.rectangle(box, outline=_colour(i), width=2)
        canvas.text(
            (box[0] + 3, box[1] + 1), f"{name} {score:.0%}", fill=(255, 255, 255), stroke_width=1, stroke_fill=0
        )
    return np.asarray(image)


def _tint(pixels: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(colour, dtype=np.float32)


def _colour(number: int) -> tuple[int, int, int]:
    """Hues at golden angles, so that neighbours differ."""
    return tuple(int(255 * x) for x in colorsys.hsv_to_rgb(0.618 * number % 1, 0.8, 1.0))  # type: ignore[return-value]


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
