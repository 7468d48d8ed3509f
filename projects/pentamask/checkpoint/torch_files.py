"""Reading torch's files with `weights_only`, after a look at them that finds damage and what would never end."""

import mmap
import os
import pickle
import re
import zipfile
from typing import Any

import torch

from pentamask.checkpoint.safe_pickle import (
    CANONICAL_MODULES,
    GLOBALS,
    TORCH_GLOBALS,
    Placeholder,
    Source,
    Unpickler,
    UnsafePickleError,
)

_LEGACY_PICKLES = 5  # magic number, version, system, the object, keys of the storages that follow


def load_torch(path: str) -> Any:
    """Read a local file of `torch.save`, in its zip or its older format, as tensors, arrays and containers.

    The environment's TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD does not change this.

    Raises:
        ValueError: the file is damaged, asks for anything else, or for more memory or time than its size explains.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    try:
        _check_zip(path, len(content)) if content[:4] == b"PK\x03\x04" else _check_legacy(content)
        with torch.serialization.safe_globals(TORCH_GLOBALS):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # malformed files end in errors of many types
        raise ValueError(f"{path} was not loaded: {_explain(error)}") from error


def _check_zip(path: str, size: int) -> None:
    """Compare the checksums, which torch does not, and scan the pickle."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        # torch never compresses; what it stores is as long in the file as in memory.
        if sum(entry.file_size for entry in entries) > size:
            raise UnsafePickleError("its parts are compressed or overlap")
        if len({entry.filename.lower() for entry in entries}) < len(entries):
            raise UnsafePickleError("it has two parts of the same name")
        damaged = archive.testzip()
        if damaged is not None:
            raise UnsafePickleError(f"its part {damaged} is damaged (wrong checksum)")
        for entry in entries:
            if entry.filename.lower().endswith("data.pkl"):
                _Scanner(Source(archive.read(entry)), size).load()


def _check_legacy(content: mmap.mmap | bytes) -> None:
    source = Source(content)
    for _ in range(_LEGACY_PICKLES):
        _Scanner(source, len(content)).load()


class _Scanner(Unpickler):
    """Goes through a pickle of torch's without making what it names, within the limits of `Unpickler`."""

    def __init__(self, source: Source, size: int) -> None:
        super().__init__(source)
        self._elements_left = size
        self._storages: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Arrays and containers for real; torch decides about the rest."""
        return GLOBALS.get((CANONICAL_MODULES.get(module, module), name)) or Placeholder()

    def persistent_load(self, pid: Any) -> Placeholder:
        """Count the elements of a storage, ("storage", type, key, device, count, ...)."""
        self.check_nesting(pid)
        key, count = str(pid[2]), int(pid[4])
        if key not in self._storages:
            self._storages.add(key)
            self._elements_left -= count
        if count < 0 or self._elements_left < 0:
            raise UnsafePickleError("it has less data than its tensors need; it is cut short, or made up")
        return Placeholder()

    def _scan_reduce(self) -> None:
        self.check_nesting(self.stack[-1])
        self._load_reduce()

    def _scan_newobj(self) -> None:
        arguments = self.stack.pop()
        self.check_nesting(arguments)
        self.stack[-1] = Placeholder()

    dispatch = {**Unpickler.dispatch, pickle.REDUCE[0]: _scan_reduce, pickle.NEWOBJ[0]: _scan_newobj}


def _explain(error: Exception) -> str:
    """Why a file was refused: the class or function it asks for, or that it is broken."""
    if isinstance(error, UnsafePickleError):
        return f"{error}."
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused is None:
        return "it is not a checkpoint of tensors, or is cut short or damaged."
    return (
        f"besides tensors it asks for {refused[1].rstrip('.')}, and such a file can run any code. If you trust it, "
        "read it with torch.load(..., weights_only=False) yourself and save its weights only."
    )
