"""Which location learns which object, and what."""

import torch
from torch import Tensor

INFINITY = 1e8


def level_ranges(sizes_of_interest: list[float]) -> list[tuple[float, float]]:
    """Limits of max(l, t, r, b) in pixels for each level, e.g. [64, 128] -> [(-1, 64), (64, 128), (128, 1e8)]."""
    limits = [-1.0, *map(float, sizes_of_interest), INFINITY]
    return list(zip(limits[:-1], limits[1:]))


def fcos_targets(
    locations: Tensor,
    strides: Tensor,
    ranges: Tensor,
    boxes: Tensor,
    classes: Tensor,
    *,
    num_classes: int,
    center_radius: float | None = 1.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels and regression targets of one image (FCOS, section 3.2, with centre sampling).

    A location is assigned to the smallest box, by area, that contains it strictly (with centre sampling: whose centre
    region, cut to the box, does) and whose largest distance lies within the level's range, both ends included.

    Args:
        locations: (R, 2) image points (x, y) of all levels, in pixels.
        strides: (R,) stride of each location's level, in pixels.
        ranges: (R, 2) smallest and largest max(l, t, r, b) of each location's level, in pixels.
        boxes: (M, 4) ground truth, XYXY absolute pixels.
        classes: (M,) int64 in [0, num_classes).
        center_radius: half side of the centre region in strides; None to take the whole box.

    Returns:
        labels (R,) int64, `num_classes` for background; distances (R, 4) left, top, right, bottom in strides (those to
        the first box where there is no object); index (R,) int64 of the box, 0 for background. Without boxes:
        background, zeros and -1.
    """
    num_locations = len(locations)
    if len(boxes) == 0:
        labels = classes.new_full((num_locations,), num_classes)
        return labels, locations.new_zeros((num_locations, 4)), torch.full_like(labels, -1)

    distances = _distances(locations, boxes[None])
    if center_radius is None:
        inside = distances.amin(dim=2) > 0
    else:
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        radius = (strides * center_radius)[:, None, None]
        region = torch.cat(
            (torch.maximum(centers - radius, boxes[:, :2]), torch.minimum(centers + radius, boxes[:, 2:])), dim=2
        )
        inside = _distances(locations, region).amin(dim=2) > 0
    largest = distances.amax(dim=2)
    in_range = (largest >= ranges[:, :1]) & (largest <= ranges[:, 1:])

    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    candidate_areas = areas.expand(num_locations, -1).masked_fill(~(inside & in_range), INFINITY)
    smallest, index = candidate_areas.min(dim=1)
    labels = classes[index].masked_fill(smallest == INFINITY, num_classes)
    return labels, distances[torch.arange(num_locations), index] / strides[:, None], index


def _distances(locations: Tensor, boxes: Tensor) -> Tensor:
    """(R, M, 4) distances of (R, 2) points to the left, top, right, bottom sides of (R or 1, M, 4) boxes."""
    points = locations[:, None]
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=2)
