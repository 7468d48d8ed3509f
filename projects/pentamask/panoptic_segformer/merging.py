"""From masks of single things and stuff to one label per pixel: the paper's rule and the two it is compared with.

M masks, each with a class score and a label; labels below the number of thing classes are things.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pentamask.common import check_choice
from pentamask.ops.resize_masks import resize_masks


@dataclass(frozen=True)
class MergeOptions:
    """Rule and thresholds of `merge`, see `MODEL.PANOPTIC_SEGFORMER.MERGE` in `config.py`.

    Raises:
        ValueError: an unknown rule.
    """

    rule: str = "mask_wise"
    quality_thresh_things: float = 0.25
    quality_thresh_stuff: float = 0.25
    overlap_thresh_things: float = 0.4
    overlap_thresh_stuff: float = 0.2
    class_thresh: float = 0.3
    keep_fraction: float = 0.8

    def __post_init__(self) -> None:
        check_choice("MODEL.PANOPTIC_SEGFORMER.MERGE.RULE", self.rule, MERGE_RULES)


@dataclass
class ScoredMasks:
    """Masks at output size, and what merging needs to know about each.

    Attributes:
        inside: (M, H, W) bool, mask values above 0.5.
        scores: (M,) class score times the square of the mean mask value inside (section 3.5, eq. 8: alpha 1, beta 2).
            As in the released code the mean divides by the pixels plus one, so an empty mask scores 0.
        areas: (M,) pixels inside.
    """

    inside: Tensor
    scores: Tensor
    areas: Tensor

    def join(self, other: "ScoredMasks") -> "ScoredMasks":
        """The masks of both, these first."""
        return ScoredMasks(
            torch.cat([self.inside, other.inside]),
            torch.cat([self.scores, other.scores]),
            torch.cat([self.areas, other.areas]),
        )


def score_masks(masks: Tensor, class_scores: Tensor, size: tuple[int, int]) -> ScoredMasks:
    """
    Args:
        masks: (M, h, w) mask values at low resolution, at least 0.
        class_scores: (M,) in 0-1.
        size: (H, W) of the output.

    Returns:
        The masks resized to `size`, bilinearly, and their scores.
    """
    inside, sums = resize_masks(masks, *size)
    totals, areas = sums.unbind(dim=1)
    return ScoredMasks(inside, class_scores * (totals / (areas + 1)) ** 2, areas)


def merge(
    masks: Tensor,
    class_scores: Tensor,
    labels: Tensor,
    size: tuple[int, int],
    num_thing_classes: int,
    options: MergeOptions | None = None,
    scored: ScoredMasks | None = None,
) -> tuple[Tensor, list[dict]]:
    """Panoptic segmentation from masks that may overlap.

    Args:
        masks: (M, h, w) mask values at low resolution, at least 0.
        class_scores: (M,) in 0-1.
        labels: (M,) int64; things are below `num_thing_classes`.
        size: (H, W) of the output.
        num_thing_classes: number of thing classes.
        options: rule and thresholds; by default the paper's.
        scored: what `score_masks` returns for these masks, if it has been computed already.

    Returns:
        (H, W) int32 segment ids, 0 void, and Detectron2's `segments_info`: a dict for each id with "id", "isthing",
        "category_id" (the label), "score", "area" in pixels, and for things "instance_id" 0, 1, ....
    """
    options = options or MergeOptions()
    if options.rule == "mask_wise":
        scored = scored or score_masks(masks, class_scores, size)
        segments = _mask_wise(scored, labels < num_thing_classes, options)
    else:
        segments = MERGE_RULES[options.rule](masks, class_scores, size, options)
    return _paint(segments, labels.tolist(), size, num_thing_classes, masks.device)


# Mask number, its pixels (H, W) bool, score: in the order of the ids, no pixel twice.
_Segments = list[tuple[int, Tensor, float]]


def _mask_wise(scored: ScoredMasks, is_thing: Tensor, options: MergeOptions) -> _Segments:
    """Best score first, every mask takes what is still free (section 3.5, algorithm 1)."""
    decisions = mask_wise_decisions(scored, is_thing, options)
    return [(i, free, float(scored.scores[i])) for i, free in decisions if isinstance(free, Tensor)]


def mask_wise_decisions(
    scored: ScoredMasks, is_thing: Tensor, options: MergeOptions
) -> Iterator[tuple[int, Tensor | str]]:
    """For each of M masks in their order its number, and the pixels (H, W) bool that it takes or why it takes none.

    Args:
        scored: the masks.
        is_thing: (M,) bool.
        options: thresholds.
    """
    quality_thresh = torch.where(is_thing, options.quality_thresh_things, options.quality_thresh_stuff)
    good_enough, has_pixels = (scored.scores >= quality_thresh).tolist(), (scored.areas > 0).tolist()
    occupied = scored.inside.new_zeros(scored.inside.shape[1:])
    for i in scored.scores.argsort(descending=True, stable=True).tolist():
        if not (good_enough[i] and has_pixels[i]):
            yield i, "score too low" if has_pixels[i] else "no pixel above 0.5"
            continue
        overlap_thresh = options.overlap_thresh_things if is_thing[i] else options.overlap_thresh_stuff
        if (scored.inside[i] & occupied).count_nonzero() / scored.areas[i] > overlap_thresh:
            yield i, "too much of it is taken"
            continue
        free = scored.inside[i] & ~occupied
        occupied |= free
        yield i, free if free.any() else "all of it is taken"


def _pixel_argmax(masks: Tensor, class_scores: Tensor, size: tuple[int, int], options: MergeOptions) -> _Segments:
    """Every pixel goes to the mask with the largest value there, if it is above 0.5 (table 8, "pixel-wise argmax")."""
    owner, inside = _argmax(masks, torch.ones_like(class_scores), class_scores > options.class_thresh, size)
    owner[~inside] = -1
    return [(i, owner == i, float(class_scores[i])) for i in owner.unique().tolist() if i >= 0]


def _maskformer(masks: Tensor, class_scores: Tensor, size: tuple[int, int], options: MergeOptions) -> _Segments:
    """Every pixel goes to the largest class score times mask value (MaskFormer, section 3.4).

    A segment that keeps less than `keep_fraction` of its mask is dropped.
    """
    owner, inside = _argmax(masks, class_scores, class_scores > options.class_thresh, size)
    segments = []
    for i in owner.unique().tolist():
        if i < 0:
            continue
        pixels = (owner == i) & inside
        area = (_resize(masks[i : i + 1], size) > 0.5).sum()
        if pixels.any() and (owner == i).sum() >= options.keep_fraction * area:
            segments.append((i, pixels, float(class_scores[i])))
    return segments


MERGE_RULES: dict[str, Callable[..., _Segments]] = {
    "mask_wise": _mask_wise,
    "pixel_argmax": _pixel_argmax,
    "maskformer": _maskformer,
}


def _argmax(masks: Tensor, weights: Tensor, keep: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Per pixel the kept mask of largest weight * value, -1 where all are 0, and whether its value is above 0.5."""
    numbers = keep.nonzero()[:, 0]
    best = masks.new_zeros(size)
    owner = torch.full(size, -1, dtype=torch.int64, device=masks.device)
    inside = torch.zeros(size, dtype=torch.bool, device=masks.device)
    for i in numbers.tolist():
        values = _resize(masks[i : i + 1], size)[0]
        better = values * weights[i] > best
        best = torch.where(better, values * weights[i], best)
        owner[better] = i
        inside = torch.where(better, values > 0.5, inside)
    return owner, inside


def _paint(
    segments: _Segments, labels: list[int], size: tuple[int, int], num_thing_classes: int, device: torch.device
) -> tuple[Tensor, list[dict]]:
    """Segments of one stuff class become one."""
    ids = torch.zeros(size, dtype=torch.int32, device=device)
    infos: list[dict] = []
    stuff: dict[int, dict] = {}
    num_things = 0
    for i, pixels, score in segments:
        label, area = labels[i], int(pixels.count_nonzero())
        if label in stuff:
            info = stuff[label]
            info["area"] += area
        else:
            isthing = label < num_thing_classes
            info = {"id": len(infos) + 1, "isthing": isthing, "category_id": label, "score": score, "area": area}
            infos.append(info)
            if isthing:
                info["instance_id"] = num_things
                num_things += 1
            else:
                stuff[label] = info
        ids[pixels] = info["id"]
    return ids, infos


def _resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]
