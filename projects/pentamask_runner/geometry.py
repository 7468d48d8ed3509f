"""Bringing masks to the size of a picture: bilinear, centres of pixels at half coordinates, as PyTorch does it."""

import math
from collections.abc import Iterator

import numpy as np


def resize(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(C, h, w) -> (C, height, width) float32; beyond the outermost centres the border's value holds."""
    rows, row_shares = _neighbours(height, maps.shape[1])
    columns, column_shares = _neighbours(width, maps.shape[2])
    maps = maps.astype(np.float32, copy=False)
    maps = _mix(maps[:, rows], maps[:, np.minimum(rows + 1, maps.shape[1] - 1)], row_shares[:, None])
    return _mix(maps[:, :, columns], maps[:, :, np.minimum(columns + 1, maps.shape[2] - 1)], column_shares)


def resize_each(maps: np.ndarray, height: int, width: int) -> Iterator[np.ndarray]:
    """The maps of `resize` one after the other, (height, width) each, for less memory."""
    for i in range(len(maps)):
        yield resize(maps[i : i + 1], height, width)[0]


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask (R, R) of probabilities within its box (4,), XYXY in pixels, in a picture: (height, width) bool."""
    pasted = np.zeros((height, width), dtype=bool)
    x1, y1, x2, y2 = (float(x) for x in box)
    left, top = max(math.floor(x1) - 1, 0), max(math.floor(y1) - 1, 0)
    right, bottom = min(math.ceil(x2) + 1, width), min(math.ceil(y2) + 1, height)
    if left >= right or top >= bottom or x2 <= x1 or y2 <= y1:
        return pasted
    framed = np.pad(mask.astype(np.float32, copy=False), 1)  # zeros around it
    rows, row_shares = _samples(np.arange(top, bottom), y1, y2, mask.shape[0])
    columns, column_shares = _samples(np.arange(left, right), x1, x2, mask.shape[1])
    lines = _mix(framed[rows], framed[rows + 1], row_shares[:, None])
    pasted[top:bottom, left:right] = _mix(lines[:, columns], lines[:, columns + 1], column_shares) >= 0.5
    return pasted


def _neighbours(size: int, old_size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `size` positions the lower of its two old positions, and the share of the higher one."""
    scale = np.float32(old_size) / np.float32(size)
    at = np.maximum((np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    lower = np.minimum(at.astype(np.int64), old_size - 1)
    return lower, at - lower.astype(np.float32)


def _samples(pixels: np.ndarray, start: float, end: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """As `_neighbours` for pixels of a box from `start` to `end`, in a mask of `size` with a frame of one around it."""
    at = (pixels.astype(np.float32) + np.float32(0.5) - np.float32(start)) / np.float32(end - start)
    at = np.clip(at * np.float32(size) + np.float32(0.5), 0, size + 1)
    lower = np.minimum(at.astype(np.int64), size)
    return lower, at - lower.astype(np.float32)


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    return first + (second - first) * share
