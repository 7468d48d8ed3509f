"""Reading Detectron2's, torch's and safetensors' files without running what they contain."""

import pickle
import re
from typing import Any

import torch

from pentamask.checkpoint.safe_pickle import load_pickle


def read_checkpoint(filename: str) -> dict[str, Any]:
    """Read a local `.pkl`, `.safetensors` or torch file, running nothing that stands in it.

    Returns:
        The weights (names to arrays or tensors) under "model", beside them what else the file holds and Detectron2
        understands, as "iteration" or "matching_heuristics".

    Raises:
        ValueError: the file is broken, holds no weights, or asks for more than arrays, numbers, strings and containers.
        ImportError: a `.safetensors` file without the package safetensors.
    """
    if filename.endswith(".pkl"):
        return _unify_pickle(load_pickle(filename), filename)
    checkpoint = _read_safetensors(filename) if filename.endswith(".safetensors") else _read_torch(filename)
    return checkpoint if "model" in checkpoint else {"model": checkpoint.get("state_dict", checkpoint)}


def _unify_pickle(data: Any, filename: str) -> dict[str, Any]:
    """Detectron2's own `.pkl` files as they are; Caffe2's and Detectron1's with the request to match names."""
    if not isinstance(data, dict):
        raise ValueError(f"{filename} holds a {type(data).__name__} instead of a dictionary of weights.")
    if "model" in data and "__author__" in data:
        return data
    blobs = data.get("blobs", data)  # Detectron1's detectors have "blobs", its ImageNet models do not
    weights = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _read_torch(filename: str) -> dict[str, Any]:
    try:
        checkpoint = torch.load(filename, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{filename} was not loaded: {_explain(error)}") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{filename} holds a {type(checkpoint).__name__} instead of a dictionary of weights.")
    return checkpoint


def _explain(error: Exception) -> str:
    """Why torch refused a file: the class or function it asks for, or that it is broken."""
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused is None:
        return "it is not a checkpoint of tensors, or is cut short."
    return (
        f"besides tensors it asks for {refused[1].rstrip('.')}, and such a file can run any code. If you trust it, "
        "read it with torch.load(..., weights_only=False) yourself and save its weights only."
    )


def _read_safetensors(filename: str) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{filename} needs the package safetensors: pip install safetensors") from error
    try:
        return load_file(filename)
    except SafetensorError as error:
        raise ValueError(f"{filename} is not a safetensors file, or is cut short: {error}") from error
