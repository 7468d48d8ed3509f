"""The thin models and their ONNX files, made once for all tests of export and runner."""

from pathlib import Path
from typing import NamedTuple

from detectron2.config import CfgNode
from pentamask_runner import Runner
from thin_models import FEWER_LAYERS, build_thin
from torch import nn

from pentamask.export import Exportable, export_onnx


class Exported(NamedTuple):
    """A thin model with its file."""

    cfg: CfgNode
    model: nn.Module
    module: Exportable
    path: Path
    runner: Runner


class Exporter:
    """Makes and remembers the file of a thin model, by its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Exported] = {}

    def __call__(self, name: str) -> Exported:
        if name not in self._made:
            cfg, model = build_thin(name, *FEWER_LAYERS.get(name, ()))
            path = self._folder / f"{name}.onnx"
            export_onnx(model, cfg, str(path), config_name=name)
            self._made[name] = Exported(cfg, model, Exportable(model), path, Runner(str(path), threads=1))
        return self._made[name]
