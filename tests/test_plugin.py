"""A model that pentamask does not know, written as docs/extending.md shows it, is served by every tool."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import LazyCall, get_cfg
from detectron2.modeling import GeneralizedRCNN
from omegaconf import OmegaConf

from pentamask.plugin import Plugin, declared, find_model_class
from pentamask.yolact import YOLACT

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
SCRIPT = """
import sys
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from pentamask.engine.checks import BadInput
from pentamask.tools import convert_weights, demo, explain, train_net

config, out = "pixel_classes.yaml", "out"
options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", out, "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2",
           "DATALOADER.NUM_WORKERS", "0", "SOLVER.STEPS", "()", "MODEL.PIXEL_CLASSES.MIN_SCORE", "0.0"]


def train(*extra):
    return train_net.main(default_argument_parser().parse_args(["--config-file", config, *options, *extra]))


assert "segm" in train()
try:
    train("MODEL.PIXEL_CLASSES.NUM_CLASSES", "7")
except BadInput as error:
    assert "6 thing_classes, but MODEL.PIXEL_CLASSES.NUM_CLASSES is 7" in str(error)
else:
    sys.exit("a wrong class count was not noticed")

weights = torch.load(out + "/model_final.pth")["model"]
names = {"features.": "net.features.", "classifier.": "net.out."}
theirs = {new + k.removeprefix(old): v for k, v in weights.items() for old, new in names.items() if k.startswith(old)}
torch.save(theirs, "theirs.pth")
arguments = ["theirs.pth", "clean.pth", "--model", config, "--verify"]
convert_weights.main(convert_weights.get_parser().parse_args(arguments))
clean = torch.load("clean.pth")["model"]
assert clean.keys() == weights.keys() and all(torch.equal(clean[k], weights[k]) for k in clean)

picture = DatasetCatalog.get("shapes_val")[0]["file_name"]
arguments = ["--config-file", config, "--input", picture, "--output", "drawn", "--confidence-threshold", "0"]
options = ["--opts", "MODEL.WEIGHTS", "clean.pth", "MODEL.DEVICE", "cpu"]
demo.main(demo.get_parser().parse_args([*arguments, *options]))
arguments[arguments.index("drawn")] = "inside"
(path,) = explain.main(explain.get_parser().parse_args([*arguments, *options]))
assert path.endswith("classes.png"), path
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with the plugin of docs/extending.md, which is announced as an installed package would be."""
    for name, code in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    (info := tmp_path / "pixel_classes-1.0.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pixel_classes\nVersion: 1.0\n")
    toml = re.search(r"```toml\n\[project.entry-points.\"(\S+)\"\]\n(\w+) = \"(\w+)\"", PAGE.read_text())
    (info / "entry_points.txt").write_text(f"[{toml[1]}]\n{toml[2]} = {toml[3]}\n")
    return tmp_path


def run_python(folder: Path, code: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_foreign_plugin_trains_is_checked_converts_and_is_drawn(foreign: Path, shapes: str) -> None:
    done = run_python(foreign, SCRIPT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((foreign / "drawn").iterdir())) == 1


def test_a_broken_foreign_plugin_is_named_and_left_out(foreign: Path) -> None:
    (foreign / "pixel_classes" / "__init__.py").write_text("import no_such_module")
    done = run_python(foreign, "import pentamask; print('imported')")
    assert done.stdout == "imported\n"
    assert "pixel_classes" in done.stderr and "no_such_module" in done.stderr


def test_models_are_found_by_either_kind_of_config() -> None:
    cfg = get_cfg()
    assert find_model_class(cfg) is GeneralizedRCNN
    cfg.MODEL.META_ARCHITECTURE = "Unknown"
    assert find_model_class(cfg) is None
    for target in (YOLACT, "pentamask.yolact.meta_arch.YOLACT"):
        lazy = OmegaConf.create({"model": LazyCall(YOLACT)()}, flags={"allow_objects": True})
        lazy.model._target_ = target
        assert find_model_class(lazy) is YOLACT


def test_what_is_not_declared_has_a_default() -> None:
    for model_class in (None, GeneralizedRCNN):
        assert declared(model_class, "class_counts") == () and declared(model_class, "key_rules") is None
        assert declared(model_class, "build_target_maker")(get_cfg()) is None
    assert declared(YOLACT, "class_counts") != Plugin.class_counts
