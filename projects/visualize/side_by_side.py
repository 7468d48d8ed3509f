"""Input, ground truth and prediction of some images in one picture."""

from collections.abc import Callable

import numpy as np
from detectron2.data import Metadata
from detectron2.data.detection_utils import read_image
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image, ImageDraw

from .predictions import draw_predictions

_TITLES = ("input", "ground truth", "prediction")
_TITLE_HEIGHT = 28
_GAP = 6


def side_by_side(
    records: list[dict],
    predict: Callable[[np.ndarray], dict],
    metadata: Metadata,
    *,
    width: int = 420,
    blocks: int = 1,
) -> Image.Image:
    """A table with a row per image: input, ground truth, prediction, in the classes' colours.

    Args:
        records: Detectron2's dataset dicts, with annotations.
        predict: from a BGR image (H, W, 3) uint8 to a model's output for it.
        metadata: of the dataset.
        width: width of one panel in pixels.
        blocks: how many rows stand beside each other.
    """
    rows = [_draw_row(record, predict, metadata, width) for record in records]
    height = max(panel.shape[0] for row in rows for panel in row)
    lines = -(-len(rows) // blocks)
    block_width = len(_TITLES) * (width + _GAP)
    canvas = Image.new("RGB", (blocks * block_width + _GAP, _TITLE_HEIGHT + lines * (height + _GAP)), "white")
    for block in range(blocks):
        for column, title in enumerate(_TITLES):
            position = (_GAP + block * block_width + column * (width + _GAP) + 4, 4)
            ImageDraw.Draw(canvas).text(position, title, fill="black", font_size=18)
    for i, row in enumerate(rows):
        for column, panel in enumerate(row):
            left = _GAP + (i // lines) * block_width + column * (width + _GAP)
            canvas.paste(Image.fromarray(panel), (left, _TITLE_HEIGHT + (i % lines) * (height + _GAP)))
    return canvas


def _draw_row(record: dict, predict: Callable, metadata: Metadata, width: int) -> list[np.ndarray]:
    """The three panels of one image, RGB, each `width` pixels wide."""
    image = read_image(record["file_name"], format="RGB")
    scale = width / image.shape[1]
    truth = Visualizer(image, metadata, scale=scale, instance_mode=ColorMode.SEGMENTATION).draw_dataset_dict(record)
    prediction = draw_predictions(
        image, predict(image[:, :, ::-1]), metadata, scale=scale, color_mode=ColorMode.SEGMENTATION
    )
    size = prediction.shape[1::-1]
    return [np.asarray(Image.fromarray(image).resize(size)), truth.get_image(), prediction]
