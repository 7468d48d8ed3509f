"""What a training or evaluation left in its OUTPUT_DIR."""

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from pentamask.engine.checks import BadInput

EXPLAINED = "inside"  # folder of pictures in an OUTPUT_DIR, made anew each time
_BLOCK = 2**20
_INFERENCE_SPEED = re.compile(r"Total inference pure compute time: .*\((\d+\.\d+) s / iter")
_ENVIRONMENT = re.compile(r"Environment info:\n(-+ +-+\n.*?\n-+ +-+)\n", re.DOTALL)


@dataclass
class Run:
    """One OUTPUT_DIR.

    Attributes:
        name: for readers.
        folder: its path.
        metrics: lines of metrics.json, in their order.
        config: text of config.yaml.
        datasets: names of the test datasets, and the folder of each one's predictions.
        facts: names and values: checkpoint, checksum, speed.
        environment: versions, as Detectron2 logged them.
        explained: by image, the pictures that tools.explain draws, as paths.
    """

    name: str
    folder: str
    metrics: list[dict[str, Any]] = field(default_factory=list)
    config: str = ""
    datasets: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    environment: str = ""
    explained: dict[str, list[str]] = field(default_factory=dict)


def read_runs(folders: list[str]) -> list[Run]:
    """The runs of some OUTPUT_DIRs, called by the shortest ends of their paths that differ.

    Raises:
        BadInput: a folder holds no run; names it.
    """
    folders = list(dict.fromkeys(map(os.path.abspath, folders)))
    parts = [folder.split(os.sep) for folder in folders]
    length = 1
    while len({tuple(part[-length:]) for part in parts}) < len({tuple(part) for part in parts}):
        length += 1
    return [_read_run("/".join(part[-length:]), folder) for part, folder in zip(parts, folders)]


def _read_run(name: str, folder: str) -> Run:
    run = Run(name, folder, metrics=_read_metrics(os.path.join(folder, "metrics.json")))
    run.config = _read(os.path.join(folder, "config.yaml"))
    if not run.config:
        raise BadInput(f"{folder} has no config.yaml: give an OUTPUT_DIR of train_net.")
    config = _parse(run.config)
    names = _at(config, "DATASETS", "TEST") or _at(config, "dataloader", "test", "dataset", "names") or []
    names = [names] if isinstance(names, str) else list(names)
    inference = os.path.join(folder, "inference")
    run.datasets = {x: os.path.join(inference, x) if len(names) > 1 else inference for x in names}
    log = _read(os.path.join(folder, "log.txt"))
    found = _ENVIRONMENT.findall(log)
    run.environment = found[-1] if found else ""
    run.facts = _facts(run, config, log)
    run.explained = _find_pictures(os.path.join(folder, EXPLAINED))
    return run


def _read(path: str) -> str:
    if not os.path.isfile(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def read_results(path: str) -> Any:
    """What an evaluation wrote into a JSON file; None if it did not, or was killed before the end."""
    if not os.path.isfile(path):
        return None
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError:
        logging.getLogger(__name__).warning("%s was not written to its end, and is left out: evaluate again.", path)
        return None


def _read_metrics(path: str) -> list[dict]:
    """The lines that are whole; a killed training may leave half of one."""
    lines = []
    for line in _read(path).splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


class _Loader(yaml.SafeLoader):
    """Reads values only; what has another tag, as Detectron2's tuples, by its plain form or not at all."""


def _plain(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError:
        return {}


def _at(config: Any, *keys: str) -> Any:
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _facts(run: Run, config: Any, log: str) -> dict[str, str]:
    facts = {}
    weights = _at(config, "MODEL", "WEIGHTS") or _at(config, "train", "init_checkpoint") or ""
    last = _read(os.path.join(run.folder, "last_checkpoint")).strip()
    path = os.path.join(run.folder, last) if last else weights
    if path:
        facts["checkpoint"] = path
    if os.path.isfile(path):
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        facts["SHA-256 of it"] = digest.hexdigest()
    speeds = _INFERENCE_SPEED.findall(log)
    if speeds:
        facts["inference"] = f"{1000 * float(speeds[-1]):.1f} ms an image and device"
    seconds = [line["time"] for line in run.metrics if "time" in line]
    if seconds:
        facts["training"] = f"{1000 * float(np.median(seconds)):.0f} ms an iteration (median)"
        facts["iterations"] = str(1 + max(line["iteration"] for line in run.metrics if "time" in line))
    return facts


def _find_pictures(folder: str) -> dict[str, list[str]]:
    """The pictures of each subfolder, in the order of their writing."""
    if not os.path.isdir(folder):
        return {}
    found = {}
    for name in sorted(os.listdir(folder)):
        inside = os.path.join(folder, name)
        if os.path.isdir(inside):
            paths = [os.path.join(inside, x) for x in os.listdir(inside) if x.endswith(".png")]
            found[name] = sorted(paths, key=lambda path: (os.stat(path).st_mtime_ns, path))
    return found
