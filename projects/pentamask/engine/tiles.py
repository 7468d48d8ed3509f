"""Large pictures: instances of overlapping tiles, each seen by itself, put together."""

from collections.abc import Callable

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import pairwise_intersection
from torch import Tensor

from pentamask.engine.checks import BadInput

_SAME = 0.5  # of the smaller box, that two boxes of one object share
_FIELDS = ("scores", "pred_classes")


def predict_tiles(predict: Callable[[np.ndarray], dict], image: np.ndarray, size: int, overlap: float) -> Instances:
    """The instances of a picture from those of its tiles.

    Of an object that a tile cuts, the part is dropped if another tile shows it whole, which is certain for objects
    smaller than the overlap.

    Args:
        predict: gives "instances" for a picture.
        image: (H, W, 3).
        size: of the square tiles, in pixels; a smaller picture is one tile.
        overlap: of neighbouring tiles, as a share of `size`.

    Returns:
        pred_boxes, scores, pred_classes and pred_masks (n, H, W) of the picture, best first.

    Raises:
        BadInput: the model finds no instances.
    """
    height, width = image.shape[:2]
    parts, cut = [], []
    for top in tile_starts(height, size, overlap):
        for left in tile_starts(width, size, overlap):
            tile = np.ascontiguousarray(image[top : top + size, left : left + size])
            result = predict(tile)
            if "instances" not in result:
                raise BadInput("Tiles are for models that find instances: this one gives none.")
            found = result["instances"]
            cut.append(_is_cut(found, top, left, (height, width)))
            parts.append(_move(found, top, left, (height, width)))
    together = Instances.cat(parts)
    return together[_merge(together, torch.cat(cut))]


def tile_starts(length: int, size: int, overlap: float) -> list[int]:
    """Where the tiles along a side of a picture begin; the last one ends with it.

    >>> tile_starts(100, 40, 0.25)
    [0, 30, 60]
    """
    if length <= size:
        return [0]
    count = int(np.ceil((length - size) / (size * (1 - overlap)))) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def _is_cut(found: Instances, top: int, left: int, picture: tuple[int, int]) -> Tensor:
    """(n,) bool: whether the box of an instance touches a side of its tile inside the picture."""
    height, width = found.image_size
    x0, y0, x1, y1 = found.pred_boxes.tensor.unbind(dim=1)
    cut = torch.zeros_like(x0, dtype=torch.bool)
    for touches, inside in (
        (x0 <= 1, left > 0),
        (y0 <= 1, top > 0),
        (x1 >= width - 1, left + width < picture[1]),
        (y1 >= height - 1, top + height < picture[0]),
    ):
        cut |= touches & inside
    return cut


def _move(found: Instances, top: int, left: int, picture: tuple[int, int]) -> Instances:
    """The instances of a tile in the coordinates of the picture."""
    moved = Instances(picture, **{name: found.get(name) for name in _FIELDS})
    boxes = found.pred_boxes.tensor
    moved.pred_boxes = Boxes(boxes + boxes.new_tensor([left, top, left, top]))
    if found.has("pred_masks"):
        height, width = found.image_size
        masks = found.pred_masks.new_zeros((len(found), *picture))
        masks[:, top : top + height, left : left + width] = found.pred_masks
        moved.pred_masks = masks
    return moved


def _merge(instances: Instances, cut: Tensor) -> Tensor:
    """The numbers of instances to keep, best first: of those of a class that share most of the smaller box, the whole
    one, or the one with the best score."""
    boxes, classes, scores = instances.pred_boxes, instances.pred_classes, instances.scores
    areas = boxes.area()
    shared = pairwise_intersection(boxes, boxes) / torch.minimum(areas[:, None], areas).clamp(min=1e-6)
    same = ((shared > _SAME) & (classes[:, None] == classes)).cpu()
    order = torch.stack([~cut, scores]).double()
    left = (order[0] * 2 + order[1]).argsort(descending=True).tolist()
    kept: list[int] = []
    for i in left:
        if not same[i, kept].any():
            kept.append(i)
    return torch.tensor(sorted(kept, key=lambda i: -float(scores[i])), dtype=torch.long, device=scores.device)
