"""Draws the scenes of the generated dataset: flat shapes that hide one another before a landscape.

H, W: image height and width in pixels. Coordinates are (x, y) in pixels, y downwards.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

THING_CLASSES = ["circle", "square", "triangle", "star", "ring", "cross"]
STUFF_CLASSES = ["sky", "ground", "water"]

_SHORT_SIDE = 128
_LONG_SIDES = (128, 144, 160)
_MAX_THINGS = 5
_MIN_VISIBLE_PIXELS = 64
_MIN_VISIBLE_SHARE = 0.45


@dataclass
class Scene:
    """A picture with its complete labels.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        stuff: (H, W) uint8, index into STUFF_CLASSES, also under the things.
        classes: one index into THING_CLASSES per thing, from back to front.
        masks: the visible part of each thing, (H, W) bool each; they do not overlap.
    """

    image: np.ndarray
    stuff: np.ndarray
    classes: list[int]
    masks: list[np.ndarray]


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a landscape and up to five things before it, each of which stays visible to almost a half.

    Args:
        rng: the source of every random choice; the same state gives the same scene.
    """
    height, width = (int(side) for side in rng.permutation([_SHORT_SIDE, rng.choice(_LONG_SIDES)]))
    image, stuff = _draw_landscape(rng, height, width)
    classes: list[int] = []
    masks: list[np.ndarray] = []
    areas: list[int] = []
    for _ in range(rng.integers(2, _MAX_THINGS + 1)):
        label = int(rng.integers(len(THING_CLASSES)))
        mask = _draw_mask(rng, THING_CLASSES[label], height, width)
        behind = [other & ~mask for other in masks]
        if not all(_is_visible(other, area) for other, area in zip(behind + [mask], areas + [int(mask.sum())])):
            continue
        classes, masks, areas = classes + [label], behind + [mask], areas + [int(mask.sum())]
        image = np.where(mask[..., None], _draw_surface(rng, label, height, width), image)
    image = image + rng.normal(0, rng.uniform(2, 4), image.shape)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), stuff, classes, masks)


def _is_visible(mask: np.ndarray, full_area: int) -> bool:
    return mask.sum() >= max(_MIN_VISIBLE_PIXELS, _MIN_VISIBLE_SHARE * full_area)


def _draw_mask(rng: np.random.Generator, name: str, height: int, width: int) -> np.ndarray:
    """A shape of random place, size, aspect ratio and rotation as a (H, W) bool mask; a part may leave the image."""
    radius = np.exp(rng.uniform(np.log(18), np.log(42)))
    stretch = np.exp(rng.uniform(-0.1, 0.1))
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    center = rng.uniform(radius / 2, np.array([width, height]) - radius / 2)
    canvas = Image.new("1", (width, height))
    for outline, inside in _outlines(name, rng):
        points = (outline * radius * (stretch, 1 / stretch)) @ rotation + center
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in points], fill=inside)
    return np.array(canvas)


def _outlines(name: str, rng: np.random.Generator) -> list[tuple[np.ndarray, int]]:
    """The closed outlines of a shape of radius 1 around (0, 0), each (n, 2), with 1 to fill it and 0 to cut it out."""
    if name == "cross":
        a = rng.uniform(0.3, 0.42)
        arm = np.array([(1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a)])
        return [(np.concatenate([arm, -arm]), 1)]
    if name == "star":
        radii = np.tile([1, rng.uniform(0.45, 0.55)], 5)
        return [(_ngon(10) * radii[:, None], 1)]
    corners = {"circle": 40, "ring": 40, "square": 4, "triangle": 3}[name]
    outline = _ngon(corners)
    return [(outline, 1)] + ([(outline * rng.uniform(0.4, 0.55), 0)] if name == "ring" else [])


def _ngon(corners: int) -> np.ndarray:
    angles = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _color(rng: np.random.Generator, hue: tuple[float, float], saturation: tuple[float, float]) -> np.ndarray:
    """A random RGB colour (3,) in 0-255 with hue and saturation (0-1) from the given ranges."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(*hue) % 1, rng.uniform(*saturation), rng.uniform(0.45, 1))
    return 255 * np.array(rgb)


def _clouds(rng: np.random.Generator, height: int, width: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise (H, W, 1) in 0-1 that varies over about `cells` (rows, columns) patches."""
    coarse = Image.fromarray(rng.integers(0, 256, cells, dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=float)[..., None] / 255


def _draw_surface(rng: np.random.Generator, label: int, height: int, width: int) -> np.ndarray:
    """What a thing is made of: a colour, plain, in stripes, checks or patches or shaded, (H, W, 3) in 0-255.

    As in nature every class has hues that are usual for it, and that its neighbours have at times.
    """
    hue = label / len(THING_CLASSES) + rng.normal(0, 0.045)
    base = _color(rng, (hue, hue), (0.6, 1))
    other = base * rng.uniform(0.55, 0.85)
    y, x = np.mgrid[:height, :width][..., None]
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 14)
    u = (x * np.cos(angle) + y * np.sin(angle)) / period
    v = (y * np.cos(angle) - x * np.sin(angle)) / period
    patterns = (
        0,
        np.floor(u) % 2,
        (np.floor(u) + np.floor(v)) % 2,
        _clouds(rng, height, width, (9, 9)),
        (1 + np.sin(u / 4)) / 2,
    )
    mix = patterns[rng.integers(len(patterns))]
    return base * (1 - mix) + other * mix


def _draw_landscape(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Sky over ground over water, or over water over ground: the picture (H, W, 3) and its stuff labels (H, W)."""
    below = ("ground", "water") if rng.random() < 0.5 else ("water", "ground")
    horizon = height * (rng.uniform(0.2, 0.5) + _wave(rng, width))
    shore = horizon + height * (rng.uniform(0.1, 0.6) + _wave(rng, width))
    y = np.arange(height)[:, None]
    stuff = np.select(
        [y < horizon, y < shore],
        [STUFF_CLASSES.index("sky"), STUFF_CLASSES.index(below[0])],
        STUFF_CLASSES.index(below[1]),
    ).astype(np.uint8)
    looks = {
        "sky": (_color(rng, (0.5, 0.7), (0.05, 0.3)), _clouds(rng, height, width, (4, 4))),
        "ground": (_color(rng, (0.05, 0.35), (0.1, 0.45)), _clouds(rng, height, width, (60, 60))),
        "water": (_color(rng, (0.45, 0.65), (0.25, 0.55)), _clouds(rng, height, width, (40, 6))),
    }
    image = np.zeros((height, width, 3))
    for label, name in enumerate(STUFF_CLASSES):
        color, texture = looks[name]
        image = np.where((stuff == label)[..., None], color * (0.6 + 0.6 * texture), image)
    return image, stuff


def _wave(rng: np.random.Generator, width: int) -> np.ndarray:
    """A gentle curve (W,) around 0, in image heights."""
    phase = np.arange(width) / width * rng.uniform(3, 12) + rng.uniform(0, 7)
    return rng.uniform(0.01, 0.06) * np.sin(phase)
