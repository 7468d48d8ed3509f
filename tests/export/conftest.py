"""The thin models and their files, made once for all tests of export."""

from pathlib import Path
from typing import NamedTuple

import pytest
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


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """Makes and remembers the file of a thin model, by its name."""
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            cfg, model = build_thin(name, *FEWER_LAYERS.get(name, ()))
            path = tmp_path_factory.mktemp("exported") / f"{name}.onnx"
            export_onnx(model, cfg, str(path), config_name=name)
            made[name] = Exported(cfg, model, Exportable(model), path, Runner(str(path), threads=1))
        return made[name]

    return get
