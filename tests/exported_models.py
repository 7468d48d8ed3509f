"""The thin models and their ONNX files, made once for all tests of export and runner."""

from pathlib import Path
from typing import NamedTuple

from detectron2.config import CfgNode
from pentamask_runner import Runner
from thin_models import VARIANTS, build_variant
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
    """Makes and remembers the file of a thin model, or of a variant with a fixed number of detections, by its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Exported] = {}

    def __call__(self, name: str) -> Exported:
        if name not in self._made:
            cfg, model = build_variant(name)
            path, detections = self._folder / f"{name}.onnx", "fixed" if name in VARIANTS else "dynamic"
            export_onnx(model, cfg, str(path), config_name=name, detections=detections)
            module = Exportable(model, detections=detections)
            self._made[name] = Exported(cfg, model, module, path, Runner(str(path), threads=1))
        return self._made[name]
