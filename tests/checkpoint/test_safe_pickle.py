"""A `.pkl` file is data: what numpy and containers write comes back, anything else is refused before it runs."""

import copyreg
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from pentamask.checkpoint.safe_pickle import UnsafePickleError, load_pickle

MODEL = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "transposed": np.arange(24, dtype=np.int64).reshape(2, 3, 4).transpose(2, 0, 1),
    "big_endian": np.arange(3, dtype=">i4"),
    "half": np.ones((1, 2, 3), np.float16),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
    "zero_dimensional": np.array(3, np.uint8),
    "text": np.array(["a", "bcd"]),
    "scalar": np.float64(1.5),
    "nested": OrderedDict(a=[1, 2.5, "x", b"\x00\xff", None, True], b=({1, 2}, frozenset([3]), bytearray(b"y"), 1j)),
}


def save(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_what_numpy_writes(tmp_path: Path, protocol: int) -> None:
    loaded = load_pickle(save(tmp_path / "m.pkl", pickle.dumps(MODEL, protocol)))
    assert loaded["nested"] == MODEL["nested"]
    for name in MODEL.keys() - {"nested"}:
        native = MODEL[name].astype(MODEL[name].dtype.newbyteorder("="))
        np.testing.assert_array_equal(loaded[name], native, strict=True)
    loaded["float"][0, 0] = 7  # writable


@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
def test_reads_the_module_names_of_both_numpys(tmp_path: Path, package: str) -> None:
    data = pickle.dumps(MODEL["float"], 2)
    for written in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        data = data.replace(written, f"{package}.multiarray".encode())
    np.testing.assert_array_equal(load_pickle(save(tmp_path / "m.pkl", data)), MODEL["float"])


def test_reads_arrays_of_python_2(tmp_path: Path) -> None:
    # What Python 2 wrote for {'w': np.array([1, 2], 'f4')}: module names of its time, the data as a str.
    raw = struct.pack("<2f", 1, 2)
    data = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08" + raw
    ) + b"tbs."
    loaded = load_pickle(save(tmp_path / "m.pkl", data))
    np.testing.assert_array_equal(loaded["w"], np.array([1, 2], np.float32), strict=True)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


def make_pointer_array() -> bytes:
    """Eight raw bytes under the dtype "object" with the flags of a number: numpy would take them for a pointer."""
    array = pickle.dumps(np.arange(1, dtype=np.float64), 2)
    return array.replace(b"X\x02\x00\x00\x00f8", b"X\x02\x00\x00\x00O8")


def make_hostile(marker: str) -> dict[str, tuple[bytes, str]]:
    """Pickles that would create the file `marker`, each with the words its error must hold."""
    code = f"open({marker!r}, 'w').close()"
    shell = f"touch {marker}"
    short = lambda text: b"\x8c" + bytes([len(text)]) + text.encode()  # noqa: E731  (SHORT_BINUNICODE)
    import_os = f"__import__('os').system({shell!r})"
    return {
        "REDUCE": (pickle.dumps({"model": Calls(os.system, shell)}, 2), "posix.system"),
        "GLOBAL": (f"cos\nsystem\n(S'{shell}'\ntR.".encode(), "os.system"),
        "INST": (f"(S'{shell}'\nios\nsystem\n.".encode(), "os.system"),
        "OBJ": (b"(cos\nsystem\n" + b"S'" + shell.encode() + b"'\no.", "os.system"),
        "STACK_GLOBAL": (b"\x80\x04" + short("os") + short("system") + b"\x93" + short(shell) + b"\x85R.", "os.system"),
        "eval": (pickle.dumps(Calls(eval, import_os), 0), "eval"),
        "exec": (pickle.dumps([1, Calls(exec, code)], 4), "builtins.exec"),
        "python 2 name": (f"c__builtin__\neval\n(S{import_os!r}\ntR.".encode(), "builtins.eval"),
        "getattr": (b"c__builtin__\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.", "builtins.getattr"),
        "dotted name": (
            b"\x80\x04" + short("collections") + short("OrderedDict.__init__.__globals__") + b"\x93.",
            "collections.OrderedDict.__init__",
        ),
        "copyreg": (f"ccopy_reg\n_reconstructor\n(cos\nsystem\nS'{shell}'\nNtR.".encode(), "copy_reg._reconstructor"),
        "object array": (pickle.dumps(np.array([Calls(os.system, shell)], object), 2), "'O8' instead of numbers"),
        "array of objects": (pickle.dumps(np.array([{}], object), 4), "'O8' instead of numbers"),
        "flags of a dtype": (make_pointer_array(), "'O8' instead of numbers"),
        "records": (pickle.dumps(np.zeros(2, "f4,f4"), 2), "'V8' instead of numbers"),
        "codec": (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "codec 'rot13'"),
        "state of a function": (b"cnumpy\ndtype\nN}S'_call'\nS'x'\ns\x86b.", "attributes of a function"),
        "torch storage": (pickle.dumps(Calls(pickle.loads, b"cos\nsystem\n."), 4), "_pickle.loads"),
        "numpy loader": (pickle.dumps(Calls(np.load, marker), 4), ".load"),
    }


@pytest.mark.parametrize("way", make_hostile(""))
def test_hostile_pickle_runs_nothing(tmp_path: Path, way: str) -> None:
    marker = tmp_path / "executed"
    data, refused = make_hostile(str(marker))[way]
    path = save(tmp_path / "model.pkl", data)
    with pytest.raises(UnsafePickleError) as error:
        load_pickle(path)
    assert path in str(error.value) and refused in str(error.value)
    assert not marker.exists()


def test_hostile_pickles_would_run(tmp_path: Path) -> None:
    """The files above are real: Python's own pickle executes them."""
    marker = tmp_path / "executed"
    hostile = make_hostile(str(marker))
    for way in ("REDUCE", "GLOBAL", "INST", "OBJ", "STACK_GLOBAL", "eval", "exec", "python 2 name", "object array"):
        pickle.loads(hostile[way][0])
        assert marker.exists(), way
        marker.unlink()


def test_registered_extension_is_refused(tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 240)
    try:
        path = save(tmp_path / "m.pkl", b"\x80\x02\x82\xf0U\x04true\x85R.")
        with pytest.raises(UnsafePickleError, match="os.system"):
            load_pickle(path)
    finally:
        copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"version https://git-lfs",
        pickle.dumps(MODEL)[:-40],
        b"\x80\x02cnumpy\nndarray\nK\x00\x85R.",
        b"\x80\x02Pa\n.",
    ],
    ids=["empty", "text", "cut short", "call of ndarray", "persistent id"],
)
def test_broken_file_is_named(tmp_path: Path, data: bytes) -> None:
    path = save(tmp_path / "m.pkl", data)
    with pytest.raises(ValueError, match="m.pkl"):
        load_pickle(path)


def test_wrong_length_of_array_data_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps(np.zeros(4, np.uint8), 2).replace(b"K\x04\x85", b"K\x09\x85")
    with pytest.raises(ValueError, match="m.pkl"):
        load_pickle(save(tmp_path / "m.pkl", data))
