"""torch's files from strangers: safe whatever their ending, damage found, and nothing that would never end."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_samples import WEIGHTS, Command
from torch import nn

from pentamask.checkpoint.files import read_checkpoint
from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.checkpoint.safe_pickle import load_pickle

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(content: object, path: Path, zipped: bool = True) -> str:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return str(path)


def tuples(levels: int) -> bytes:
    """Opcodes of a tuple of itself, `levels` times: its hash and its text take 2 ** levels steps."""
    return b")" + b"2\x86" * levels  # EMPTY_TUPLE, then DUP TUPLE2


def replaced_pickle(path: str, data: bytes) -> str:
    """The file of torch with another pickle in its zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, data if entry.filename.endswith("data.pkl") else old.read(entry))
    Path(path).write_bytes(buffer.getvalue())
    return path


@FORMATS
def test_numpy_beside_tensors(tmp_path: Path, zipped: bool) -> None:
    extra = {"best": np.float64(0.5), "epoch": np.int64(7), "array": np.arange(6, dtype=np.float32).reshape(2, 3)}
    path = save({"model": {**WEIGHTS, "array": extra["array"]}, **extra}, tmp_path / "m.pth", zipped)
    loaded = read_checkpoint(path)
    assert loaded["best"] == 0.5 and loaded["epoch"] == 7
    for array in (loaded["array"], loaded["model"]["array"]):
        np.testing.assert_array_equal(array, extra["array"], strict=True)
    torch.testing.assert_close(loaded["model"]["weight"], WEIGHTS["weight"], rtol=0, atol=0)


@FORMATS
def test_arrays_of_objects_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = save({"model": WEIGHTS, "x": np.array([{}], object)}, tmp_path / "m.pth", zipped)
    with pytest.raises(ValueError, match="'O8' instead of numbers"):
        read_checkpoint(path)


@FORMATS
@pytest.mark.parametrize("name", ["m.pth", "m.pyth", "m.pt", "m.bin", "m.ckpt", "noending"])
def test_every_ending_is_read_safely_whatever_the_environment_says(tmp_path: Path, name: str, zipped: bool) -> None:
    marker = tmp_path / "executed"
    path = save({"model_state": Command(f"touch {marker}")}, tmp_path / name, zipped)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        with pytest.raises(ValueError, match=r"system"):
            PentamaskCheckpointer(nn.Linear(3, 2)).load(path)
    assert not marker.exists()


def test_files_of_pycls(tmp_path: Path) -> None:
    path = save({"model_state": {**WEIGHTS, "num_batches_tracked": torch.tensor(1)}}, tmp_path / "m.pyth")
    model = nn.Linear(3, 2)
    PentamaskCheckpointer(model).load(path)
    torch.testing.assert_close(dict(model.state_dict()), WEIGHTS, rtol=0, atol=0)


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = save({"model": {"weight": torch.arange(1000.0)}}, tmp_path / "m.pth")
    data = bytearray(Path(path).read_bytes())
    data[data.index(torch.arange(500.0, 510).numpy().tobytes())] ^= 1
    Path(path).write_bytes(data)
    with pytest.raises(ValueError, match=r"m\.pth was not loaded: its part .*data/0 is damaged \(wrong checksum\)\."):
        read_checkpoint(path)


@FORMATS
def test_every_cut_file_is_one_line(tmp_path: Path, zipped: bool) -> None:
    data = Path(save({"model": WEIGHTS}, tmp_path / "m.pth", zipped)).read_bytes()
    for end in [*range(0, len(data), 61), len(data) - 1]:
        (tmp_path / "m.pth").write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"m\.pth was not loaded: ") as error:
            read_checkpoint(str(tmp_path / "m.pth"))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": [1]}, "holds a list instead of a dictionary of weights"),
        ({"model": {"a": 1}}, "holds a int instead of weights under 'a'"),
        ({"model": {1: torch.ones(1)}}, "holds a dict with other keys than names"),
        ({"a": torch.ones(1).expand(10**12)}, "without all of its values under 'a'"),
        ({"a": torch.ones(3).to_sparse()}, "without all of its values under 'a'"),
        ({"a": torch.ones(3, device="meta")}, "without all of its values under 'a'"),
        ([1], "holds a list instead"),
    ],
)
def test_other_contents_are_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_checkpoint(save(content, tmp_path / "m.pth"))


def test_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_text("<html>\n<body>Not found</body>\n</html>")
    with pytest.raises(ValueError, match=r"m\.pth was not loaded: it is not a checkpoint of tensors"):
        read_checkpoint(str(tmp_path / "m.pth"))


BOMBS = {
    "key": b"\x80\x02}" + tuples(60) + b"Ns.",
    "keys": b"\x80\x02}(" + tuples(60) + b"Nu.",
    "dict": b"\x80\x02(" + tuples(60) + b"Nd.",
    "set": b"\x80\x04\x8f(" + tuples(60) + b"\x90.",
    "frozenset": b"\x80\x04(" + tuples(60) + b"\x91.",
    "set by call": b"\x80\x02c__builtin__\nset\n(](" + tuples(60) + b"etR.",
    "ordered": b"\x80\x02ccollections\nOrderedDict\n(](" + tuples(60) + b"N\x86etR.",
    "value": b"\x80\x02" + tuples(60) + b".",
    "called": b"\x80\x02" + tuples(60) + b")R.",
    "class": b"\x80\x02" + tuples(60) + b")\x81.",
    "lists": b"\x80\x02]" + b"q\x00]h\x00ah\x00a" * 60 + b".",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "many": b"\x80\x02" + b"N0" * 2_600_000 + b"N.",
    "long bytes": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",
    "long bytearray": b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b"x.",
    "frame": b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"N.",
    "memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "zeros": b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x40\x85R.",
    "copies": b"\x80\x02(B\x00\x00\x20\x00"
    + b"x" * 2**21
    + b"q\x00"
    + b"c__builtin__\nbytearray\nh\x00\x85R" * 99
    + b"l.",
}


@pytest.mark.parametrize("way", BOMBS)
@pytest.mark.parametrize("name", ["m.pkl", "m.pth"])
def test_bombs_end_at_once(tmp_path: Path, way: str, name: str) -> None:
    """Read without the limits each would hang, or take all memory."""
    if way in ("memo", "frame") and name == "m.pkl":
        assert load_pickle(_write(tmp_path / name, BOMBS[way])) is None  # harmless, as it is read
        return
    path = _write(tmp_path / name, BOMBS[way])
    with pytest.raises(ValueError, match="m.p"):
        read_checkpoint(path)


def _write(path: Path, data: bytes) -> str:
    if path.suffix == ".pkl":
        path.write_bytes(data)
        return str(path)
    return replaced_pickle(save({"model": WEIGHTS}, path), data)
