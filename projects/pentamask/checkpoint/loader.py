"""Reading Detectron2's, torch's and safetensors' files without running what stands in them."""

import contextlib
import os
import pickle
import re
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

from pentamask.checkpoint.key_map import sample
from pentamask.checkpoint.safe_pickle import load_pickle


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names it and says why."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no such checkpoint, or it cannot be downloaded."""


class PentamaskCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` for files from anywhere: nothing in a file is executed, and errors name the file.

    Reads `.pth` and the like with `weights_only`, `.pkl` with `load_pickle`, and `.safetensors`. The weights may
    stand under "model", under "state_dict", or be the whole file. Everything else is Detectron2's: the resume logic,
    `?matching_heuristics=True`, Caffe2 names, and the report of missing, unused and misshaped entries.
    """

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load `path` (a file or an address that Detectron2 knows; "" loads nothing) into the model.

        Raises:
            CheckpointNotFoundError: there is no such file.
            CheckpointError: the file cannot be read safely, or belongs to another model.
        """
        if path:
            path = _fetch_with_query(path)
            _check_exists(path)
        self._parsed_url_during_load = None  # left behind by a load that failed
        try:
            return super().load(path, *args, **kwargs)
        except (ValueError, ImportError) as error:
            message = str(error)
            raise CheckpointError(message if path in message else f"{path}: {message}") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        if not filename.endswith(".pkl"):
            return super()._load_file(filename)
        checkpoint = read_checkpoint(filename)
        if parse_qs(self._parsed_url_during_load.query).get("matching_heuristics") == ["True"]:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _torch_load(self, f: str) -> dict[str, Any]:
        return read_checkpoint(f)


class _CompleteCheckpointer(PentamaskCheckpointer):
    """Refuses what Detectron2 only warns of."""

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        misshaped = [f"{name} {theirs} instead of {ours}" for name, theirs, ours in incompatible.incorrect_shapes]
        findings = {
            "missing": incompatible.missing_keys,
            "unused": incompatible.unexpected_keys,
            "of another shape": misshaped,
        }
        if any(findings.values()):
            report = "; ".join(f"{title}: {sample(names)}" for title, names in findings.items() if names)
            raise ValueError(f"The checkpoint does not fill the model: {report}.")
        return incompatible


def load_completely(model: nn.Module, path: str) -> None:
    """Load `path` into `model`, where training from a backbone or with other classes is not wanted.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: the file cannot be read safely, belongs to another model, lacks an entry of `model`, or has
            one that is not its.
    """
    _CompleteCheckpointer(model).load(path)


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


def _fetch_with_query(path: str) -> str:
    """`path`, or for an address with a query, such as Dropbox's "?dl=1", the local copy of what it names.

    Detectron2's checkpointer takes the query away before it downloads, and then refuses it.
    """
    url = urlparse(path)
    queries = parse_qsl(url.query)
    query = urlencode([item for item in queries if item[0] != "matching_heuristics"])
    if url.scheme not in ("http", "https") or not query:
        return path
    address = url._replace(query=query).geturl()
    try:
        downloaded = PathManager.get_local_path(address)
    except OSError as error:
        raise CheckpointNotFoundError(f"MODEL.WEIGHTS names {path!r}, which cannot be fetched: {error}.") from error
    # Under a name without "?", but not the one that the address without its query would have.
    local = os.path.join(os.path.dirname(downloaded), f"{query}_{os.path.basename(url.path)}")
    with contextlib.suppress(FileExistsError):
        os.link(downloaded, local)
    return local + ("?matching_heuristics=True" if ("matching_heuristics", "True") in queries else "")


def _check_exists(path: str) -> None:
    """Raise `CheckpointNotFoundError` if `path`, less its query, is not there or cannot be downloaded."""
    url = urlparse(path)._replace(query="").geturl()
    hint = "Give the path or address of a checkpoint, or '' to start from random weights."
    try:
        found = PathManager.isfile(PathManager.get_local_path(url))
    except OSError as error:
        message = f"MODEL.WEIGHTS names {path!r}, which cannot be fetched: {error}. {hint}"
        raise CheckpointNotFoundError(message) from error
    if not found:
        raise CheckpointNotFoundError(f"MODEL.WEIGHTS names {path!r}, which is not a file. {hint}")


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
