"""Thousands of damaged and hostile files: none runs code, hangs, or ends in anything but an error that says what it is.

The files come from a seed, so that a failure can be repeated: it names the kind and the number. PENTAMASK_FUZZ_SEED and
PENTAMASK_FUZZ_FACTOR choose other and more files.
"""

import faulthandler
import io
import json
import os
import pickle
import random
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from checkpoint_samples import ARRAYS, WEIGHTS, Command
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from safetensors.torch import save as save_safetensors
from torch import nn

from pentamask import model_zoo
from pentamask.checkpoint.loader import CheckpointError, PentamaskCheckpointer
from pentamask.engine.checks import BadInput, checked_loading
from pentamask.engine.load_config import load_config

SEED = int(os.environ.get("PENTAMASK_FUZZ_SEED", 0))
FACTOR = int(os.environ.get("PENTAMASK_FUZZ_FACTOR", 1))
SECONDS = 5  # for one file
RUNS = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "os.remove"}
_ran: list[str] = []
_watching = False


def _watch(event: str, _: tuple) -> None:
    if _watching and event in RUNS:
        _ran.append(event)


sys.addaudithook(_watch)


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Some bytes changed, cut, doubled, moved, or taken from another file."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        start, other = rng.randrange(len(result) + 1), rng.choice(others)
        stop = min(len(result), start + rng.choice((1, 1, 2, 8, 64)))
        begin = rng.randrange(len(other))
        part = other[begin : begin + rng.choice((1, 4, 32, 256))]
        change = rng.choice(("flip", "byte", "cut", "delete", "double", "insert", "replace"))
        if change == "flip" and start < len(result):
            result[start] ^= 1 << rng.randrange(8)
        elif change == "byte":
            result[start:stop] = bytes(rng.choice((0, 255, 127, rng.randrange(256))) for _ in range(start, stop))
        elif change == "cut" and rng.random() < 0.3:
            del result[start:]
        elif change == "delete":
            del result[start:stop]
        elif change == "double":
            result[start:start] = result[start:stop] * rng.choice((1, 2, 50))
        elif change == "insert":
            result[start:start] = part
        elif change == "replace":
            result[start : start + len(part)] = part
    return bytes(result)


def torch_file(content: object, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def with_pickle(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A torch file whose pickle is changed, with checksums that fit."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            part = old.read(entry)
            new.writestr(entry.filename, change(part) if entry.filename.endswith("data.pkl") else part)
    return buffer.getvalue()


def contents(marker: Path) -> list[dict]:
    command = Command(f"touch {marker}")
    optimizer = {"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0, 1]}]}
    return [
        {"model": OrderedDict(WEIGHTS), "iteration": 3, "optimizer": optimizer},
        {"model": dict(ARRAYS), "__author__": "me", "best": np.float64(1.5), "set": {1, 2}},
        {"model": WEIGHTS, "run": command},
        dict(ARRAYS),
    ]


def pickles(marker: Path, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    arrays = [
        {
            key: {k: np.asarray(v) for k, v in value.items()} if key == "model" else value
            for key, value in content.items()
        }
        for content in contents(marker)
    ]
    seeds = [pickle.dumps(content, protocol) for content in arrays for protocol in range(6)]
    for _ in range(1500 * FACTOR):
        yield "m.pkl", mutate(rng.choice(seeds), seeds, rng)


def zips(marker: Path, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    zipped, legacy = ([torch_file(content, new) for content in contents(marker)] for new in (True, False))
    parts = [pickle.dumps(content, 2) for content in contents(marker)]
    for _ in range(400 * FACTOR):
        yield "m.pth", mutate(rng.choice(zipped), zipped, rng)
        yield "m.pyth", mutate(rng.choice(legacy), legacy + parts, rng)
        yield "m.pt", with_pickle(rng.choice(zipped), lambda part: mutate(part, parts, rng))


def safetensors(_: Path, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    seeds = [save_safetensors(WEIGHTS)]
    for _ in range(200 * FACTOR):
        yield "m.safetensors", mutate(seeds[0], seeds, rng)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[[str, Callable[[], object], tuple[type[Exception], ...]], None]]:
    """Runs a function, which must not run code or take long, and may only raise certain errors of one line."""
    global _watching
    _ran.clear()

    def run(name: str, function: Callable[[], object], allowed: tuple[type[Exception], ...]) -> None:
        start = time.perf_counter()
        try:
            function()
        except allowed as error:
            assert str(error).strip(), f"{name}: {type(error).__name__} without a word"
        except BaseException as error:
            raise AssertionError(f"{name} ends in {type(error).__name__}: {error}") from error
        assert time.perf_counter() - start < SECONDS, f"{name} takes too long"
        assert not _ran and not (tmp_path / "executed").exists(), f"{name} runs {_ran}"

    faulthandler.dump_traceback_later(120 * FACTOR, exit=True)  # what hangs in C cannot be stopped otherwise
    _watching = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield run
    _watching = False
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("kind", [pickles, zips, safetensors])
def test_checkpoints(tmp_path: Path, kind: Callable, watched: Callable) -> None:
    for number, (name, data) in enumerate(kind(tmp_path / "executed", random.Random(SEED))):
        (tmp_path / name).write_bytes(data)
        load = partial(PentamaskCheckpointer(nn.Linear(3, 2)).load, str(tmp_path / name))
        watched(f"{kind.__name__} {number}", load, (CheckpointError,))


def test_yaml(tmp_path: Path, watched: Callable) -> None:
    rng = random.Random(SEED)
    texts = [Path(model_zoo.get_config_file(f"shapes/{name}.yaml")).read_bytes() for name in ("demo", "Base-Shapes")]
    base = tmp_path / "Base-Shapes.yaml"
    base.write_bytes(texts[1])
    hostile = f"_BASE_: Base-Shapes.yaml\nA: &a [!!python/object/apply:os.system [touch {tmp_path}/executed], *a]\n"
    hostile += (
        "SOLVER: {<<: &b {STEPS: !!python/tuple [1, 2]}, BASE_LR: 1e-3}\nMODEL: {WEIGHTS: !!python/name:os.system }\n"
    )
    texts.append(hostile.encode())
    for number in range(300 * FACTOR):
        (tmp_path / "m.yaml").write_bytes(mutate(rng.choice(texts), texts, rng))
        watched(f"YAML {number}", lambda: load_config(str(tmp_path / "m.yaml"), []), (BadInput,))


def annotations() -> dict:
    rle = {"size": [40, 60], "counts": [405, 20, 1975]}
    common = {"category_id": 7, "bbox": [10, 5, 20, 20], "area": 400, "iscrowd": 0}
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (1, 2)],
        "categories": [{"id": 7, "name": "a", "supercategory": "b"}],
        "annotations": [
            {"id": 1, "image_id": 1, "segmentation": [[10, 5, 30, 5, 30, 25]], **common},
            {"id": 2, "image_id": 2, "segmentation": rle, **common},
        ],
    }


def change_value(value: object, rng: random.Random) -> object:
    """JSON with one of its values exchanged for something that does not belong there."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        value[key] = change_value(value[key], rng)
        return value
    return rng.choice((None, True, -1, 10**20, 1e400, float("nan"), "x", "", [], {}, [[]], [{}], {"a": 1}, "../x"))


def test_json(tmp_path: Path, watched: Callable) -> None:
    rng = random.Random(SEED)
    seeds = [json.dumps(annotations()).encode()]
    file, name = tmp_path / "m.json", "fuzzed"
    for i in (1, 2):
        torch.save(0, tmp_path / f"{i}.jpg")  # is no picture either
    for number in range(600 * FACTOR):
        changed = json.dumps(change_value(annotations(), rng)).encode()
        file.write_bytes(b"[" * 100_000 if number == 0 else changed if number % 2 else mutate(seeds[0], seeds, rng))
        register_coco_instances(name, {}, str(file), str(tmp_path))

        def load() -> None:
            with checked_loading([name], train=True, masks=True):
                DatasetCatalog.get(name)

        try:
            watched(f"JSON {number}", load, (BadInput,))
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_the_watch_sees_what_runs(watched: Callable) -> None:
    with pytest.raises(AssertionError, match=r"x runs \['os.system'\]"):
        watched("x", lambda: yaml.unsafe_load("!!python/object/apply:os.system ['true']"), (ValueError,))
