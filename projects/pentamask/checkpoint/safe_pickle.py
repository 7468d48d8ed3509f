"""Reading `.pkl` model files: arrays, strings, numbers and containers, and nothing that could run code."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from detectron2.utils.file_io import PathManager

_DTYPE = re.compile(r"[<>|=]?[biufcSU]\d+")


class UnsafePickleError(ValueError):
    """A pickle asks for something that is not an array, string, number or container."""


def load_pickle(path: str) -> Any:
    """Read a model file of Detectron2's or Caffe2's zoo without running anything that stands in it.

    Args:
        path: a `.pkl` file, in any pickle protocol, from Python 2 or 3 and any numpy.

    Returns:
        The pickled object. Arrays are writable, in the machine's byte order, and of a private
        subclass of `numpy.ndarray`.

    Raises:
        UnsafePickleError: the file names a class or function other than those of arrays and containers.
        ValueError: the file is no pickle, is cut short, or its arrays are malformed.
    """
    try:
        with PathManager.open(path, "rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} was not loaded: {error}. A model file holds arrays, strings, numbers and containers only; "
            "do not open this one with pickle unless you trust where it comes from."
        ) from None
    except OSError:
        raise
    except Exception as error:  # malformed opcodes end in errors of many types
        raise ValueError(f"{path} cannot be read as a pickled model file: {type(error).__name__}: {error}") from error


class _Unpickler(pickle.Unpickler):
    """Looks globals up in a table instead of importing them."""

    def find_class(self, module: str, name: str) -> Any:
        module = _CANONICAL_MODULES.get(module, module)
        if (module, name) not in _GLOBALS:
            raise UnsafePickleError(f"it asks for {module}.{name}")
        return _GLOBALS[module, name]


class _Function:
    """A function that a pickle may call; unlike a plain one it has no attributes that a pickle could set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise UnsafePickleError("it changes the attributes of a function")


class _DType:
    """The pickled form of a `numpy.dtype` of plain numbers or characters."""

    __slots__ = ("value",)

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise UnsafePickleError(f"it holds an array of {code!r} instead of numbers")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        """Take the byte order out of numpy's (version, byte order, sub-array, names, fields, ...).

        The rest is not handed to numpy: flags made up by hand would make it read bytes as pointers.
        """
        _, byte_order, subarray, names, fields = state[:5]
        if any(part is not None for part in (subarray, names, fields)):
            raise UnsafePickleError("it holds an array of records instead of numbers")
        self.value = self.value.newbyteorder(byte_order)


class _Array(np.ndarray):
    """An array that only accepts numbers as its state."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, data = state
        super().__setstate__((1, shape, _plain(dtype), bool(fortran_order), _to_bytes(data)))


def _reconstruct(*_: Any) -> _Array:
    """The empty array that `__setstate__` fills; the arguments are always (ndarray, (0,), b"b")."""
    return _Array((0,), np.int8)


def _from_buffer(
    data: bytes, dtype: _DType, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None
) -> np.ndarray:
    """An array of pickle protocol 5; `order` "K" with `axes` is an array that was transposed."""
    stored = _plain(dtype)
    array = np.frombuffer(data, stored).astype(stored.newbyteorder("=")).view(_Array)
    return array.reshape(shape).transpose(axes) if axes is not None else array.reshape(shape, order=order)


def _scalar(dtype: _DType, data: bytes | str) -> np.generic:
    return np.frombuffer(_to_bytes(data), _plain(dtype), count=1)[0]


def _plain(dtype: _DType) -> np.dtype:
    if not isinstance(dtype, _DType):
        raise UnsafePickleError(f"it describes an array by {type(dtype).__name__} instead of a dtype")
    return dtype.value


def _to_bytes(data: bytes | bytearray | str) -> bytes:
    """Array data; Python 2 wrote it as what is now a string."""
    return data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """`codecs.encode` as protocols 0 to 2 use it for bytes; other codecs are code that a file may not choose."""
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


# numpy 1 and 2, Python 2 and 3.
_CANONICAL_MODULES = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "__builtin__": "builtins",
}
_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _Function(_DType),
    ("numpy.core.multiarray", "_reconstruct"): _Function(_reconstruct),
    ("numpy.core.multiarray", "scalar"): _Function(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Function(_from_buffer),
    ("_codecs", "encode"): _Function(_encode),
    ("collections", "OrderedDict"): OrderedDict,
    **{("builtins", kind.__name__): kind for kind in (bytes, bytearray, complex, set, frozenset)},
}
