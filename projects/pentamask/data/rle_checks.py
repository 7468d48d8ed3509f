"""Finds run-length encoded masks that pycocotools would read as something else, or beyond their end."""

import numpy as np

from pentamask.data.findings import AnnotationTable, Findings

_CHUNK = 1000  # masks that are decoded together


def check_rle(table: AnnotationTable, indices: list[int], findings: Findings) -> None:
    """Check those annotations whose "segmentation" is a dict: the size, and that the counts add up to it."""
    masks = [table.annotations[i]["segmentation"] for i in indices]
    wrong_size, wrong_counts, not_rle = [], [], []
    compressed: list[tuple[int, bytes, int]] = []
    for i, mask in zip(indices, masks):
        size, counts = mask.get("size"), mask.get("counts")
        if not isinstance(size, (list, tuple)) or len(size) != 2 or not isinstance(counts, (list, str, bytes)):
            not_rle.append(i)
        elif tuple(size) != tuple(table.sizes[i]) and not np.isnan(table.sizes[i]).any():
            wrong_size.append(i)
        elif not isinstance(counts, list):
            encoded = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
            compressed.append((i, encoded, size[0] * size[1]))
        elif not all(isinstance(c, int) and c >= 0 for c in counts) or sum(counts) != size[0] * size[1]:
            wrong_counts.append(i)
    for start in range(0, len(compressed), _CHUNK):
        chunk = compressed[start : start + _CHUNK]
        areas = compressed_areas([encoded for _, encoded, _ in chunk])
        wrong_counts += [i for (i, _, expected), area in zip(chunk, areas) if area != expected]
    findings.error('RLE without "size" [height, width] or "counts"', not_rle, table.name)
    findings.error('RLE whose "size" [height, width] is not its image\'s', wrong_size, table.name)
    findings.error('RLE whose "counts" do not add up to its size', wrong_counts, table.name)


def compressed_areas(strings: list[bytes]) -> np.ndarray:
    """The number of pixels, (N,), that COCO's compressed counts add up to; -1 for what is no such string.

    A count is written in groups of 5 bits, lowest first; bit 6 says that another group follows, and bit 5 of the last
    group is the sign. From the fourth count on, the difference from the count two before is written.
    """
    areas = np.full(len(strings), -1)
    lengths = np.array([len(s) for s in strings])
    characters = np.frombuffer(b"".join(strings), np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(strings)), lengths)
    bad = np.zeros(len(strings), dtype=bool)
    bad[owner[(characters < 0) | (characters > 63)]] = True
    ends = lengths.cumsum() - 1
    bad |= lengths == 0
    bad[~bad] |= characters[ends[~bad]] & 32 > 0  # the last group says that another follows
    kept = ~bad[owner]
    characters, owner = characters[kept], owner[kept]
    if len(characters) == 0:
        return areas
    last = characters & 32 == 0
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    groups = np.diff(np.append(starts, len(characters)))
    place = np.arange(len(characters)) - np.repeat(starts, groups)
    bad[owner[place > 6]] = True  # beyond 32 bits
    values = np.add.reduceat((characters & 31) << 5 * place.clip(max=6), starts)
    values -= (characters[last] & 16 > 0) * (1 << 5 * groups.clip(max=7))
    owner = owner[starts]
    counts = _undo_differences(values, owner)
    bad[owner[counts < 0]] = True
    totals = np.bincount(owner, weights=counts, minlength=len(strings)).astype(np.int64)
    return np.where(bad, -1, totals)


def _undo_differences(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """The counts (V,) of strings, given by `owner` (V,) in ascending order, from what is written for them."""
    first = np.searchsorted(owner, owner)  # where the string of each value begins
    number = np.arange(len(values)) - first
    counts = values.copy()
    for chain in ((number % 2 == 1), (number % 2 == 0) & (number > 0)):
        sums = values[chain].cumsum()
        strings = owner[chain]
        start = np.searchsorted(strings, strings)
        counts[chain] = sums - (sums[start] - values[chain][start])
    return counts
