"""What `explain` of a model returns: tensors from inside it, by kind, so that they are drawn without knowing the model.

K maps, n instances, H x W the size of the input image. Boxes and points are XY in pixels of that image. An image's
explanation is a dict of name to one of the kinds below; docs/extending.md shows a model's `explain`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor, nn


@dataclass
class Maps:
    """Maps of the whole image, such as prototypes.

    Attributes:
        title: what they are, for readers.
        values: (K, h, w).
        extent: (height, width) in pixels of the input image that the maps cover, from its upper left corner; more than
            the image where it was padded.
        names: of the K maps; numbers without.
    """

    title: str
    values: Tensor
    extent: tuple[float, float]
    names: Sequence[str] = ()


@dataclass
class InstanceMaps:
    """Maps of each instance, such as its attention or its mask.

    Attributes:
        title: what they are.
        instances: n `Instances` of the input image, with pred_boxes, scores and pred_classes.
        values: K tensors (n, h_k, w_k).
        names: of the K maps.
        extent: (height, width) in pixels that the maps cover; None if they cover each instance's box.
        notes: what else to say about each instance; or nothing.
    """

    title: str
    instances: Instances
    values: Sequence[Tensor]
    names: Sequence[str]
    extent: tuple[float, float] | None = None
    notes: Sequence[str] = ()


@dataclass
class WeightedSum:
    """Masks that are put together from K maps.

    Attributes:
        title: what is added up.
        instances: as in `InstanceMaps`.
        inputs: (n, K, h, w), or (K, h, w) for all instances.
        weights: (n, K, h, w), or (n, K) numbers.
        result: (n, h, w), the mask probabilities that the sum gives.
        extent: as in `InstanceMaps`.
    """

    title: str
    instances: Instances
    inputs: Tensor
    weights: Tensor
    result: Tensor
    extent: tuple[float, float] | None = None

    def terms(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (K, h, w), weights (K, h, w) or (K,), and their products (K, h, w) of instance `i`."""
        inputs = self.inputs[i] if self.inputs.dim() == 4 else self.inputs
        weights = self.weights[i]
        return inputs, weights, inputs * (weights if weights.dim() == 3 else weights[:, None, None])


@dataclass
class Points:
    """Points where the model looks for each instance.

    Attributes:
        title: what they are.
        instances: as in `InstanceMaps`.
        points: for each instance (P, 2).
        weights: for each instance (P,), at least 0; or nothing.
        levels: for each instance (P,) int64, of the feature map that a point is sampled from; or nothing.
        level_names: of the feature maps.
        grid: (rows, columns) of cells that each box is divided into, or None.
    """

    title: str
    instances: Instances
    points: Sequence[Tensor]
    weights: Sequence[Tensor] = ()
    levels: Sequence[Tensor] = ()
    level_names: Sequence[str] = ()
    grid: tuple[int, int] | None = None


@dataclass
class BoxLevels:
    """Boxes and the feature map that each is served by.

    Attributes:
        title: what they are.
        boxes: (n, 4) XYXY.
        scores: (n,).
        levels: (n,) int64, index of `level_names`.
        level_names: of the feature maps.
    """

    title: str
    boxes: Tensor
    scores: Tensor
    levels: Tensor
    level_names: Sequence[str]


@dataclass
class OrderedMasks:
    """Masks in the order in which they were put into one panoptic map.

    Attributes:
        title: what decides the order.
        masks: (M, H, W) bool, as predicted.
        taken: (M, H, W) bool, the pixels that each got; none of the rejected.
        reasons: why each was rejected, "" if it was not.
        scores: (M,).
        labels: (M,) int64, category ids of the dataset.
        is_thing: (M,) bool.
    """

    title: str
    masks: Tensor
    taken: Tensor
    reasons: Sequence[str]
    scores: Tensor
    labels: Tensor
    is_thing: Tensor


Part = Maps | InstanceMaps | WeightedSum | Points | BoxLevels | OrderedMasks
Explanation = dict[str, Part]


@contextmanager
def recorded(*modules: nn.Module) -> Iterator[list[list[tuple[tuple, Any]]]]:
    """Within, every call of some modules is kept, by hooks that go afterwards.

    Yields:
        For each module the list of its calls: positional arguments and output.
    """
    calls: list[list[tuple[tuple, Any]]] = [[] for _ in modules]
    hooks = [
        module.register_forward_hook(lambda _, inputs, output, kept=kept: kept.append((inputs, output)))
        for module, kept in zip(modules, calls)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def best(scores: Tensor, max_instances: int, min_score: float) -> Tensor:
    """Indices of the `max_instances` highest of (n,) scores that are at least `min_score`, best first."""
    order = scores.argsort(descending=True, stable=True)[:max_instances]
    return order[scores[order] >= min_score]


def check_evaluating(model: nn.Module) -> None:
    """Raise `ValueError` if a model that is asked for its explanation is in training mode."""
    if model.training:
        raise ValueError("A model explains its predictions, which it does not make in training: call model.eval().")


def described(instances: Instances, chosen: Tensor) -> Instances:
    """Of instances the `chosen` ones, with nothing but pred_boxes, scores and pred_classes."""
    kept = {name: instances.get(name)[chosen] for name in ("pred_boxes", "scores", "pred_classes")}
    return Instances(instances.image_size, **kept)


def boxes_to_rois(boxes: Tensor, image: int) -> Tensor:
    """(n, 4) boxes of image number `image` -> (n, 5), as RoI poolers take them."""
    return torch.cat([boxes.new_full((len(boxes), 1), image), boxes], dim=1)
