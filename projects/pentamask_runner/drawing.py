"""Draws objects into a picture with numpy and Pillow, fast enough for videos."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]


class Region(NamedTuple):
    """An object, or a kind of stuff, in a picture of height H and width W.

    Attributes:
        caption: written at the box, or without one somewhere in the mask.
        colour: RGB, 0 to 255.
        mask: (H, W) bool, tinted and outlined; without one the box is outlined.
        box: XYXY in pixels.
    """

    caption: str
    colour: Colour
    mask: np.ndarray | None = None
    box: Sequence[float] | None = None


def colour_of(number: int) -> Colour:
    """The colour of an object by its number: hues at golden angles, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb(0.618 * number % 1, 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_regions(pixels: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """A copy of a picture (H, W, 3) uint8, RGB, with regions; each lies over those before it."""
    length = (pixels.shape[0] * pixels.shape[1]) ** 0.5
    line, font_size = max(1, round(length / 600)), max(12, round(length / 50))
    drawn = _tint(pixels, regions, line)
    for region in regions:
        if region.mask is None and region.box is not None:
            _frame(drawn, region.box, region.colour, 2 * line)
    for region in regions:
        _write(drawn, region, font_size)
    return drawn


def _tint(pixels: np.ndarray, regions: Sequence[Region], line: int) -> np.ndarray:
    """Half the picture and half the colour inside masks, the colour on both sides of their edges."""
    count = len(regions)
    numbers = np.zeros(pixels.shape[:2], dtype=np.uint16)  # of the region on top + 1, and `count` more on its edge
    for i, region in enumerate(regions):
        if region.mask is not None:
            np.copyto(numbers, np.uint16(i + 1), where=region.mask)
    edge = np.zeros(numbers.shape, dtype=bool)
    for first, second in ((np.s_[line:], np.s_[:-line]), (np.s_[:, line:], np.s_[:, :-line])):
        change = numbers[first] != numbers[second]
        edge[first] |= change
        edge[second] |= change
    numbers[edge & (numbers > 0)] += count
    shift, colour = np.zeros((2, 2 * count + 1, 3), dtype=np.uint8)
    shift[1 : count + 1], shift[count + 1 :] = 1, 8
    if count:
        colours = np.array([region.colour for region in regions], dtype=np.uint8)
        colour[1 : count + 1], colour[count + 1 :] = colours >> 1, colours
    return (pixels >> np.take(shift, numbers, axis=0)) + np.take(colour, numbers, axis=0)


def _frame(pixels: np.ndarray, box: Sequence[float], colour: Colour, line: int) -> None:
    """The outline of a box, in place."""
    height, width = pixels.shape[:2]
    x1, x2 = (round(min(max(x, 0), width - line)) for x in (box[0], box[2] - line))
    y1, y2 = (round(min(max(y, 0), height - line)) for y in (box[1], box[3] - line))
    for y in (y1, y2):
        pixels[y : y + line, x1 : x2 + line] = colour
    for x in (x1, x2):
        pixels[y1 : y2 + line, x : x + line] = colour


def _write(pixels: np.ndarray, region: Region, size: int) -> None:
    """The caption of a region on its colour, in place."""
    if region.box is not None:
        x, y = region.box[:2]
    elif region.mask is not None and len(inside := np.argwhere(region.mask[::8, ::8])):
        y, x = 8 * inside[len(inside) // 2]
    else:
        return
    height, width = pixels.shape[:2]
    text = np.concatenate([_word(word, size) for word in region.caption.split(" ")], axis=1)[:height, :width, None]
    left, top = (int(min(max(start, 0), end)) for start, end in ((x, width - text.shape[1]), (y, height - len(text))))
    paper = np.array(region.colour, dtype=np.float32)
    ink = 0.0 if paper @ (0.299, 0.587, 0.114) > 128 else 255.0
    pixels[top : top + len(text), left : left + text.shape[1]] = paper + (ink - paper) * text


_font = lru_cache(ImageFont.load_default)


@lru_cache(maxsize=4096)
def _word(text: str, size: int) -> np.ndarray:
    """How much ink is on each pixel of a word and the space after it: (height of a line, w) float32 from 0 to 1.

    Captions have the same words again and again, and drawing them takes longer than all the rest.
    """
    font = _font(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # as Pillow's own is in any size
    image = Image.new("L", (round(font.getlength(f"{text} ")), sum(font.getmetrics())))
    ImageDraw.Draw(image).text((1, 0), text, fill=255, font=font)
    return np.asarray(image, dtype=np.float32) / 255
