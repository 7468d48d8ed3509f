"""`pentamask:FILE`, an address under which Detectron2's own checkpointer gets a file read by `read_checkpoint`."""

import os
import tempfile
from typing import Any

import numpy as np
import torch
from detectron2.utils.file_io import PathHandler, PathManager

from pentamask.checkpoint.files import read_checkpoint

PREFIX = "pentamask:"


class CheckpointHandler(PathHandler):
    """Gives a clean copy of the checkpoint behind the prefix: `{"model": tensors}`, written by `torch.save`.

    So a plain `DetectionCheckpointer`, which unpickles `.pkl` files and knows neither `.safetensors` nor weights under
    "state_dict", loads `pentamask:model.pkl` safely. The copies are deleted when the process ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder: tempfile.TemporaryDirectory | None = None
        self._copies: dict[tuple[str, float], str] = {}

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return PathManager.isfile(path.removeprefix(PREFIX), **kwargs)

    _exists = _isfile

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """Raises what `read_checkpoint` and the download raise."""
        source = PathManager.get_local_path(path.removeprefix(PREFIX), force=force, **kwargs)
        key = os.path.realpath(source), os.path.getmtime(source)
        if key not in self._copies:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="pentamask_")
            target = os.path.join(self._folder.name, f"{len(self._copies)}_{os.path.basename(source)}.pth")
            torch.save(_clean(read_checkpoint(source)), target)
            self._copies[key] = target
        return self._copies[key]


def _clean(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The weights as tensors, for `torch.load` refuses arrays, and what tells Detectron2 how to match their names."""
    weights = {
        name: torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
        for name, value in checkpoint["model"].items()
    }
    kept = ("__author__", "matching_heuristics")
    return {"model": weights} | {key: checkpoint[key] for key in kept if key in checkpoint}


def register_checkpoint_handler() -> None:
    """Let Detectron2's `PathManager`, and so its checkpointers, know `pentamask:`; all other paths stay as they are."""
    PathManager.register_handler(CheckpointHandler(), allow_override=True)
