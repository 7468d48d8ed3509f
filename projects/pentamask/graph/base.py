"""The base of what plugins declare as their `graph`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Graph(nn.Module):
    """The inference of a model from a batch of pictures to tensors, for export.

    It computes what the model's `forward` computes up to where results become `Instances` at the size of the picture;
    the rest, which the runner does, is described by `description`. Sizes of tensors inside may depend on their values
    only through `nonzero` and NMS, and Python never looks at a value.

    A subclass is made by a plugin and named by its class as `graph`.

    Attributes:
        model: whose parts are called.
        mask_kind: what `masks` are: "roi" within their boxes (n, R, R), "picture" maps of the whole input (n, h, w), or
            None without masks.
        extra_outputs: names of the results that follow those that all models have.
    """

    model: Any
    mask_kind: str | None = None
    extra_outputs: tuple[str, ...] = ()

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: of the class that names this graph, in evaluation mode; a copy, whose modules may be replaced.

        Raises:
            ValueError: the model has a part that cannot be exported; names it.
        """
        super().__init__()
        self.model = model

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the results, in their order."""
        masks = ("masks",) if self.mask_kind else ()
        return ("boxes", "scores", "classes", *masks, *self.extra_outputs)

    @property
    def min_size(self) -> int:
        """Least height and width of a picture: below it a level of features would have a single row or column."""
        return max(shape.stride for shape in self.model.backbone.output_shape().values()) + 1

    @property
    def max_detections(self) -> int:
        """Most results of a picture."""
        raise NotImplementedError

    def dense(self, images: Tensor) -> Any:
        """What is computed for a whole batch of (N, 3, H, W) normalised, padded pictures of one size."""
        raise NotImplementedError

    def detect(self, dense: Any, n: int, size: tuple[int, int]) -> dict[str, Tensor]:
        """The results for picture `n` of the batch, whose (height, width) without padding is `size`.

        Returns:
            "boxes" (n, 4) XYXY in pixels of the picture, "scores" (n,), "classes" (n,) int64 and, as `mask_kind` says,
            "masks"; best first. Others that the model has: "mask_scores" (n,), and "sem_seg" (C, h, w) logits.
        """
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        """What the runner has to know of the outputs beside `mask_kind`, in JSON's types.

        "whole_pixels": boxes are cut to whole pixels; "stretches": the model itself stretches every picture to one
        size; `combination`; or "merge", "num_things" and "category_ids" of a model of queries.
        """
        return {}

    def preprocess(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) of values 0-255 -> normalised and, at right and bottom, padded as the backbone asks."""
        images = (images - self.model.pixel_mean) / self.model.pixel_std
        return pad_to_multiple(images, self.model.backbone.size_divisibility)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """
        Args:
            images: (N, 3, H, W) pictures of one size, uint8 or floating point, channels as in INPUT.FORMAT.

        Returns:
            The results of each picture, see `detect`.
        """
        dense = self.dense(self.preprocess(images))
        size = (images.shape[-2], images.shape[-1])
        return [self.detect(dense, n, size) for n in range(images.shape[0])]


def pad_to_multiple(images: Tensor, divisor: int) -> Tensor:
    """(N, C, H, W) with zeros at right and bottom, so that H and W are multiples of `divisor`."""
    if divisor <= 1:
        return images
    height, width = images.shape[-2:]
    # Not -(-size // divisor): ONNX divides integers towards zero.
    right, bottom = ((size + divisor - 1) // divisor * divisor - size for size in (width, height))
    return F.pad(images, (0, right, 0, bottom))


def rois_of(boxes: Tensor, n: int) -> Tensor:
    """Boxes (R, 4) of picture `n` of a batch as RoIs (R, 5), with the picture's number before each."""
    return torch.cat((boxes.new_full((boxes.shape[0], 1), n), boxes), dim=1)
