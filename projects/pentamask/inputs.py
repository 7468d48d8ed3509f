"""Checks what a model is called with: one clear error for every model, where the call is wrong."""

from typing import Any

import numpy as np
import torch
from torch import nn

_FORM = 'a list of dicts with "image", a uint8 tensor (C, H, W) of values 0-255'


def register_input_check(model: nn.Module) -> None:
    """Let `model` check the batches that it is called with, before its forward pass; twice is once.

    Args:
        model: takes Detectron2's list of input dicts. The number of channels is that of its `pixel_mean`.
    """
    if _check_call not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_check_call)


def _check_call(model: nn.Module, args: tuple) -> None:
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return
    mean = getattr(model, "pixel_mean", None)
    check_inputs(
        args[0] if args else None,
        type(model).__name__,
        channels=None if mean is None else mean.numel(),
        training=model.training,
    )


def check_inputs(batched_inputs: Any, model: str, *, channels: int | None, training: bool) -> None:
    """Check a batch in Detectron2's input format.

    Args:
        batched_inputs: what a model is called with.
        model: its name, for the message.
        channels: that it takes; None for any number.
        training: whether it needs "instances". The values of an image are not looked at then: augmentation may take
            them out of their range.

    Raises:
        ValueError: says which input is wrong, and how.
    """
    if not isinstance(batched_inputs, (list, tuple)) or not all(isinstance(x, dict) for x in batched_inputs):
        raise ValueError(f"{model} takes {_FORM}, got {type(batched_inputs).__name__}.")
    if not batched_inputs:
        raise ValueError(f"{model} got an empty list: give at least one image.")
    for i, x in enumerate(batched_inputs):
        where = f"Input {i} of {model}" + (f" ({x['file_name']})" if "file_name" in x else "")
        if "image" not in x:
            raise ValueError(f'{where} has no "image": give {_FORM}.')
        _check_image(x["image"], where, channels, values=not training)
        for key in ("height", "width"):
            if key in x and not x[key] >= 1:
                raise ValueError(f'{where} has "{key}" {x[key]!r}: it must be 1 or more.')
        if training:
            if "instances" not in x:
                raise ValueError(f'{model} needs ground truth in training: every input needs "instances".')
            _check_truth(x["instances"], where)


def _check_image(image: Any, where: str, channels: int | None, *, values: bool) -> None:
    if not isinstance(image, torch.Tensor):
        raise ValueError(f'{where}: "image" is {type(image).__name__}, expected a uint8 tensor (C, H, W).')
    shape = tuple(image.shape)
    if len(shape) != 3 or 0 in shape or channels not in (None, shape[0]):
        expected = f"({'C' if channels is None else channels}, H, W)"
        hint = ": permute it, channels come first" if len(shape) == 3 and shape[2] == channels else ""
        raise ValueError(f'{where}: "image" has shape {shape}, expected {expected}{hint}.')
    if image.dtype == torch.uint8:
        return
    if image.dtype == torch.bool or image.is_complex():
        raise ValueError(f'{where}: "image" is {image.dtype}, expected uint8 or other numbers from 0 to 255.')
    if not values:
        return
    low, high = image.min().item(), image.max().item()
    if not 0 <= low <= high <= 255:  # NaN is not either
        raise ValueError(
            f'{where}: "image" has values from {low:g} to {high:g}, expected 0 to 255: the model normalises them.'
        )
    if image.is_floating_point() and 0 < high <= 1:
        raise ValueError(f'{where}: "image" has values up to {high:g}, expected up to 255: multiply by 255.')


def _check_truth(instances: Any, where: str) -> None:
    """Ground truth that no loss can be computed of, or a wrong one."""
    if not hasattr(instances, "get_fields"):
        raise ValueError(f'{where}: "instances" is {type(instances).__name__}, expected Detectron2\'s Instances.')
    if instances.has("gt_classes") and (instances.gt_classes < 0).any():
        raise ValueError(f"{where}: gt_classes has {int(instances.gt_classes.min())}; classes count from 0.")
    if instances.has("gt_boxes"):
        boxes = instances.gt_boxes.tensor
        wrong = ~(boxes[:, 2:] >= boxes[:, :2]).all(dim=1)  # also for NaN
        if wrong.any():
            raise ValueError(
                f"{where}: gt_boxes has {boxes[wrong][0].tolist()}, expected x1, y1, x2, y2 with x1 <= x2 and y1 <= y2."
            )


def check_picture(image: Any) -> None:
    """Check a picture as OpenCV reads it: (H, W, 3) uint8.

    Raises:
        ValueError: says what it is instead.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"Expected a picture (H, W, 3) of uint8 in BGR, as cv2.imread gives it, got {found}.")
    if 0 in image.shape:
        raise ValueError(f"The picture of shape {image.shape} is empty.")
