"""Reading pickles: arrays, strings, numbers and containers; nothing that could run code, or take forever.

Python's own `pickle._Unpickler` does the reading: unlike the compiled one it can be kept from allocating what a file
only announces.
"""

import mmap
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import numpy as np
from detectron2.utils.file_io import PathManager

_DTYPE = re.compile(r"[<>|=]?[biufcSU]\d+")
_MAX_READS = 5_000_000  # a few seconds; a checkpoint of a detector takes some ten thousand
_MAX_CONTAINERS = 1_000_000
_MAX_DEPTH = 64
_PLAIN = (str, bytes, int, float, complex, type(None), np.generic)


class UnsafePickleError(ValueError):
    """A pickle asks for something that is not an array, string, number or container, or for too much of them."""


def load_pickle(path: str) -> Any:
    """Read a model file of Detectron2's or Caffe2's zoo without running anything contained in it.

    Args:
        path: a `.pkl` file, in any pickle protocol, from Python 2 or 3 and any numpy.

    Returns:
        The pickled object. Arrays are writable, in the machine's byte order, and of a private
        subclass of `numpy.ndarray`.

    Raises:
        UnsafePickleError: the file names a class or function other than those of arrays and containers, or is made to
            take more memory or time than its contents can need.
        ValueError: the file is no pickle, is cut short, or its arrays are malformed.
    """
    try:
        with open(PathManager.get_local_path(path), "rb") as file:
            return Unpickler(Source(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} was not loaded: {error}. A model file holds arrays, strings, numbers and containers only; "
            "do not open this one with pickle unless you trust where it comes from."
        ) from None
    except OSError:
        raise
    except Exception as error:  # malformed opcodes end in errors of many types
        raise ValueError(f"{path} cannot be read as a pickled model file: {type(error).__name__}: {error}") from error


class Source:
    """A file in memory whose reads are counted.

    Attributes:
        size: in bytes.
    """

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data, self._position, self._reads = data, 0, 0
        self.size = len(data)

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._count()
        if count > self.size - self._position:
            raise EOFError("it is cut short")
        start, self._position = self._position, self._position + count
        return self._data[start : self._position]

    def readline(self) -> bytes:
        """The rest of the line."""
        self._count()
        end = self._data.find(b"\n", self._position) + 1
        start, self._position = self._position, end or self.size
        return self._data[start : self._position]

    def _count(self) -> None:
        self._reads += 1
        if self._reads > _MAX_READS:
            raise UnsafePickleError(f"it has more than {_MAX_READS} parts")


_PythonUnpickler: Any = pickle._Unpickler  # whose inner methods have no published types


class Unpickler(_PythonUnpickler):
    """Looks globals up in a table instead of importing them, and bounds the depth, size and time of what is read.

    Only plain values, and tuples of them, are hashed: a tuple may stand in itself so often that its hash takes years.
    """

    dispatch = dict(_PythonUnpickler.dispatch)

    def __init__(self, source: Source) -> None:
        super().__init__(source, encoding="latin1")
        self._bytes_left = 8 * source.size + 2**20
        self._containers_left = _MAX_CONTAINERS

    def load(self) -> Any:
        """The next pickle of the source."""
        result = super().load()
        self.check_nesting(result)
        return result

    def find_class(self, module: str, name: str) -> Any:
        """What the file may call by this name."""
        module = CANONICAL_MODULES.get(module, module)
        if (module, name) not in GLOBALS:
            raise UnsafePickleError(f"it asks for {module}.{name}")
        return GLOBALS[module, name]

    def check_nesting(self, value: Any) -> None:
        """Refuse a `value` that is deeper than what checkpoints have, or larger when all that is shared is copied."""
        left = [(value, 0)]
        while left:
            value, depth = left.pop()
            if not isinstance(value, (dict, list, tuple, set, frozenset)):
                continue
            self._containers_left -= 1
            if depth > _MAX_DEPTH or self._containers_left < 0:
                raise UnsafePickleError("it is nested too deep, or too often")
            left += [(part, depth + 1) for part in (value.values() if isinstance(value, dict) else value)]

    def _load_frame(self) -> None:
        self.read(8)  # frames only tell how much to read ahead

    def _load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))  # Python's own would make it before it reads

    def _load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        self.load_setitem()

    def _load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        self.load_setitems()

    def _load_dict(self) -> None:
        _check_keys(self.stack[::2])
        self.load_dict()

    def _load_additems(self) -> None:
        _check_keys(self.stack)
        self.load_additems()

    def _load_frozenset(self) -> None:
        _check_keys(self.stack)
        self.load_frozenset()

    def _load_reduce(self) -> None:
        self.load_reduce()
        self._charge(self.stack[-1])

    def _load_build(self) -> None:
        self.load_build()
        self._charge(self.stack[-1])

    def _charge(self, made: Any) -> None:
        """Count the memory of an object that need not stand in the file at its full size."""
        self._bytes_left -= made.nbytes if isinstance(made, (np.ndarray, np.generic)) else _length(made)
        if self._bytes_left < 0:
            raise UnsafePickleError("it asks for much more memory than its own size")

    dispatch[pickle.FRAME[0]] = _load_frame
    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray8
    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    dispatch[pickle.DICT[0]] = _load_dict
    dispatch[pickle.ADDITEMS[0]] = _load_additems
    dispatch[pickle.FROZENSET[0]] = _load_frozenset
    dispatch[pickle.REDUCE[0]] = _load_reduce
    dispatch[pickle.BUILD[0]] = _load_build


def _length(made: Any) -> int:
    return len(made) if hasattr(made, "__len__") else 0


def _check_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        if not all(isinstance(part, (*_PLAIN, Placeholder)) for part in (key if isinstance(key, tuple) else (key,))):
            raise UnsafePickleError(f"it has a {type(key).__name__} of containers as a key")


class Placeholder:
    """Something that a file names, or makes by that, which is not looked at."""

    def __call__(self, *_: Any) -> "Placeholder":
        return Placeholder()

    def __setitem__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


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
        plain = (1, shape, _plain(dtype), bool(fortran_order), _to_bytes(data))
        super().__setstate__(plain)  # type: ignore[arg-type]


def _reconstruct(*_: Any) -> _Array:
    """The empty array that `__setstate__` fills; the arguments are always (ndarray, (0,), b"b")."""
    return _Array((0,), np.int8)


def _from_buffer(
    data: bytes, dtype: _DType, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None
) -> np.ndarray:
    """An array of pickle protocol 5; `order` "K" with `axes` is an array that was transposed."""
    stored = _plain(dtype)
    array = np.frombuffer(data, stored).astype(stored.newbyteorder("=")).view(_Array)
    return array.reshape(shape).transpose(axes) if axes is not None else array.reshape(shape, order=order)  # type: ignore[call-overload]


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


def _hashed(kind: type) -> Callable[..., Any]:
    def make(items: Iterable[Any] = ()) -> Any:
        items = list(items)
        _check_keys([key for key, _ in items] if kind is OrderedDict else items)
        return kind(items)

    return make


def _bytes(kind: type) -> Callable[..., Any]:
    def make(data: Any = b"", *encoding: str) -> Any:
        if isinstance(data, int):  # that many zeros
            raise UnsafePickleError(f"it asks for {kind.__name__} by their number")
        return kind(data, *encoding)

    return make


# numpy 1 and 2, Python 2 and 3.
CANONICAL_MODULES = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "__builtin__": "builtins",
}
GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _Function(_DType),
    ("numpy.core.multiarray", "_reconstruct"): _Function(_reconstruct),
    ("numpy.core.multiarray", "scalar"): _Function(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Function(_from_buffer),
    ("_codecs", "encode"): _Function(_encode),
    ("builtins", "complex"): _Function(complex),
    ("collections", "OrderedDict"): _Function(_hashed(OrderedDict)),
    **{("builtins", kind.__name__): _Function(_hashed(kind)) for kind in (set, frozenset)},
    **{("builtins", kind.__name__): _Function(_bytes(kind)) for kind in (bytes, bytearray)},
}
# How torch's own reader of safe pickles (`torch.serialization.safe_globals`) is told what stands for numpy's names.
TORCH_GLOBALS = [
    (_DType, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *(
        (GLOBALS[module, name], f"{package}.{name}")
        for module, name in GLOBALS
        for package in (module, module.replace("numpy.core", "numpy._core"))
        if name in ("_reconstruct", "scalar", "_frombuffer", "encode")
    ),
]
