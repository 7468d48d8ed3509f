"""Reading Detectron2's, torch's and safetensors' files without running what they contain."""

from typing import Any

import numpy as np
import torch

from pentamask.checkpoint.safe_pickle import load_pickle
from pentamask.checkpoint.torch_files import load_torch


def read_checkpoint(filename: str) -> dict[str, Any]:
    """Read a local `.pkl`, `.safetensors` or torch file, running nothing contained in it.

    Returns:
        The weights (names to arrays or tensors) under "model", beside them what else the file holds and Detectron2
        understands, as "iteration" or "matching_heuristics".

    Raises:
        ValueError: the file is broken, holds no weights, or asks for more than arrays, numbers, strings and containers.
        ImportError: a `.safetensors` file without the package safetensors.
    """
    if filename.endswith(".pkl"):
        checkpoint = _unify_pickle(_dictionary(load_pickle(filename), filename))
    elif filename.endswith(".safetensors"):
        checkpoint = {"model": _read_safetensors(filename)}
    else:
        checkpoint = _unify_torch(_dictionary(load_torch(filename), filename))
    checkpoint["model"] = _weights(checkpoint["model"], filename)
    return checkpoint


def _dictionary(data: Any, filename: str) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        kind = "dict with other keys than names" if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{filename} holds a {kind} instead of a dictionary of weights.")
    return data


def _weights(data: Any, filename: str) -> dict[str, Any]:
    """Names to dense arrays or tensors, of which the file has all the values."""
    weights = _dictionary(data, filename)
    if not weights:
        raise ValueError(f"{filename} holds no weights.")
    for name, value in weights.items():
        if isinstance(value, np.generic):
            weights[name] = np.asarray(value)
        elif not isinstance(value, (np.ndarray, torch.Tensor)):
            raise ValueError(f"{filename} holds a {type(value).__name__} instead of weights under {name!r}.")
        elif isinstance(value, torch.Tensor) and not _is_stored(value):
            raise ValueError(f"{filename} holds a tensor without all of its values under {name!r}.")
    return weights


def _is_stored(value: torch.Tensor) -> bool:
    """Not one that is sparse, of the device "meta", or repeats a few values so often that it fits no memory."""
    if value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _unify_torch(data: dict[str, Any]) -> dict[str, Any]:
    """The weights under "model", from where they are or, in pycls' files, with the request to match names."""
    if "model" in data:
        return data
    if "model_state" in data:
        weights = _dictionary(data["model_state"], "model_state")
        weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
        return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
    return {"model": data.get("state_dict", data)}


def _unify_pickle(data: dict[str, Any]) -> dict[str, Any]:
    """Detectron2's own `.pkl` files as they are; Caffe2's and Detectron1's with the request to match names."""
    if "model" in data and "__author__" in data:
        return data
    blobs = _dictionary(
        data.get("blobs", data), '"blobs"'
    )  # Detectron1's detectors have "blobs", its ImageNet models do not
    weights = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _read_safetensors(filename: str) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{filename} needs the package safetensors: pip install safetensors") from error
    try:
        return load_file(filename)
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{filename} is not a safetensors file, or is cut short: {error}") from error
