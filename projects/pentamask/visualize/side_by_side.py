"""Input, ground truth and prediction of some images in one picture."""

from collections.abc import Callable

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image, ImageDraw

from pentamask.data.pictures import read_record_picture

from .predictions import draw_predictions, literal_text

_TITLES = ("input", "ground truth", "prediction")
_TITLE_HEIGHT = 28
_GAP = 6


def side_by_side(
    records: list[dict],
    predict: Callable[[np.ndarray], dict],
    metadata: Metadata,
    *,
    panel: int = 320,
    blocks: int = 1,
) -> Image.Image:
    """A table with a row per image: input, ground truth, prediction, in the classes' colours.

    Args:
        records: Detectron2's dataset dicts, with annotations.
        predict: from a BGR image (H, W, 3) uint8 to a model's output for it.
        metadata: of the dataset.
        panel: longer side of one image's panels in pixels.
        blocks: how many rows stand beside each other.
    """
    rows = [draw_row(record, predict, metadata, panel) for record in records]
    lines = -(-len(rows) // blocks)
    block_width = len(_TITLES) * (panel + _GAP)
    canvas = Image.new("RGB", (blocks * block_width + _GAP, _TITLE_HEIGHT + lines * (panel + _GAP)), "white")
    for block in range(blocks):
        for column, title in enumerate(_TITLES):
            position = (_GAP + block * block_width + column * (panel + _GAP) + 4, 4)
            ImageDraw.Draw(canvas).text(position, title, fill="black", font_size=18)
    for i, row in enumerate(rows):
        for column, picture in enumerate(row):
            left = _GAP + (i // lines) * block_width + column * (panel + _GAP)
            canvas.paste(Image.fromarray(picture), (left, _TITLE_HEIGHT + (i % lines) * (panel + _GAP)))
    return canvas


@literal_text()
def draw_row(record: dict, predict: Callable, metadata: Metadata, panel: int) -> list[np.ndarray]:
    """The three panels of one image, RGB, the longer side `panel` pixels; arguments as those of `side_by_side`."""
    image = read_record_picture(record, "RGB")
    scale = panel / max(image.shape)
    truth = Visualizer(image, metadata, scale=scale, instance_mode=ColorMode.SEGMENTATION).draw_dataset_dict(record)
    prediction = draw_predictions(
        image, predict(image[:, :, ::-1]), metadata, scale=scale, color_mode=ColorMode.SEGMENTATION
    )
    size = prediction.shape[1::-1]
    return [np.asarray(Image.fromarray(image).resize(size)), truth.get_image(), prediction]
