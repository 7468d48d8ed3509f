"""Commands of the pages run: on thin models and generated data in the place of the reader's, for two iterations.

Before that the command as it stands is read by the tool's own parser, and its config is loaded with its overrides.
"""

import argparse
import importlib
import json
import pickle
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import setuptools
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from doc_pages import PAGES, ROOT, blocks
from PIL import Image
from thin_models import build_thin, scenes

from pentamask.engine.config_checks import check_lazy_values, check_values
from pentamask.engine.load_config import find_config_file, load_config, load_lazy_config
from pentamask.tools import train_net

THIN = {
    "BlendMask": "BlendMask_R_50_thin",
    "CenterMask": "CenterMask_Lite_R_50_thin",
    "YOLACT": "YOLACT_R_50_thin",
    "MaskRCNN": "MaskRCNN_R_50_thin",
    "PanopticSegFormer": "PanopticSegFormer_R_50_thin",
}
SHORT = "SOLVER.MAX_ITER 2 SOLVER.STEPS () SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TRAIN (64,)"
SHORT += " INPUT.MIN_SIZE_TEST 64 MODEL.DEVICE cpu OUTPUT_DIR out"
# Commands of other programs: "make" and "pip" are checked below.
FOREIGN = ("g++ ", "LD_LIBRARY_PATH=", "python -m pytest tests/reference ")


def commands() -> list[tuple[str, str]]:
    """(page, command) of all console blocks, each command once."""
    found: dict[str, str] = {}
    for page in PAGES:
        for block in blocks(page):
            if block.language == "console":
                for line in block.code.replace("\\\n", " ").splitlines():
                    found.setdefault(line.split(" #")[0].strip(), block.page)
    return [(page, line) for line, page in found.items() if line]


def tool_of(line: str) -> tuple[str, list[str]] | None:
    """Module and arguments of a command that starts one of ours."""
    words = shlex.split(line)
    if words[:2] == ["python", "-m"] and words[2].startswith("pentamask"):
        return words[2].replace("pentamask_runner", "pentamask_runner.command_line"), words[3:]
    if words[:2] == ["python", "-c"]:
        return f"pentamask.tools.{words[2].split()[-1].removesuffix('.cli()')}", words[3:]
    scripts = {"train_net.py": "train_net", "train_mine.py": "train_net", "demo.py": "demo"}
    if words[0] == "python" and words[1] in scripts:
        return f"pentamask.tools.{scripts[words[1]]}", words[2:]
    return None


OURS = [(page, line) for page, line in commands() if tool_of(line)]
OTHERS = [(page, line) for page, line in commands() if not tool_of(line)]


def parse(module: str, words: list[str]) -> argparse.Namespace:
    tool = importlib.import_module(module)
    return tool.get_parser().parse_args(words) if hasattr(tool, "get_parser") else argparse.Namespace()


@pytest.mark.parametrize(("page", "line"), OURS)
def test_commands_can_be_given(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand: flags, config and overrides."""
    monkeypatch.chdir(ROOT)
    module, words = tool_of(line)
    args = parse(module, words)
    files = getattr(args, "config_file", None) or []
    for file in [files] if isinstance(files, str) else files:
        path = find_config_file(file)
        if path.endswith(".py"):
            check_lazy_values(load_lazy_config(path, args.opts))
        else:
            check_values(load_config(path, args.opts))


@pytest.mark.parametrize(("page", "line"), OTHERS)
def test_other_commands_name_what_there_is(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[:2] == ["pip", "install"]:
        asked: dict = {}
        monkeypatch.setattr(setuptools, "setup", asked.update)
        monkeypatch.setenv("PENTAMASK_NO_EXTENSION", "1")
        monkeypatch.chdir(ROOT)
        exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {"__name__": "setup"})
        extras = set(re.findall(r"pentamask\[([\w,]+)\]", line))
        assert {extra for names in extras for extra in names.split(",")} <= asked["extras_require"].keys()
    else:
        assert line.startswith(FOREIGN), f"{page}: {line}"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with NAME.pth and NAME.pkl of each thin model."""
    folder = tmp_path_factory.mktemp("weights")
    for name in THIN.values():
        state = build_thin(name)[1].state_dict()
        torch.save({"model": state}, folder / f"{name}.pth")
        with open(folder / f"{name}.pkl", "wb") as file:
            pickle.dump({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "a test"}, file)
    return folder


@pytest.fixture
def reader(shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with pictures, a video, and registered instances of three classes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    pictures = [scene.permute(1, 2, 0).numpy() for scene in scenes(2)]
    for path, picture in zip(("photo.jpg", "aerial.tif", "photos/a.jpg", "photos/b.jpg"), 2 * pictures):
        Image.fromarray(picture).save(tmp_path / path)
    writer = cv2.VideoWriter("street.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (96, 64))
    for picture in pictures:
        writer.write(np.ascontiguousarray(cv2.resize(picture, (96, 64))))
    writer.release()
    for split in ("train", "val"):
        truth = json.loads((Path(shapes) / "annotations" / f"instances_{split}.json").read_text())
        truth["categories"] = truth["categories"][:3]
        known = {category["id"] for category in truth["categories"]}
        truth["annotations"] = [x for x in truth["annotations"] if x["category_id"] in known]
        (tmp_path / f"{split}.json").write_text(json.dumps(truth))
        register_coco_instances(f"mine_{split}", {}, f"{split}.json", str(Path(shapes) / split))
    yield tmp_path
    for split in ("train", "val"):
        DatasetCatalog.remove(f"mine_{split}")
        MetadataCatalog.pop(f"mine_{split}")


def thin_line(line: str) -> tuple[str, tuple[str, ...]]:
    """Module and arguments with thin models for configs, and no more work than two iterations."""
    module, words = tool_of(line)
    if module.endswith((".config", ".list_models")):
        return module, tuple(words)
    words = [word.removeprefix("configs/").removeprefix("finetune/") for word in words]
    for i, word in enumerate(words):
        name, dot, ending = word.partition(".")
        if name.partition("/")[0] in THIN and ("/" in name or ending == "yaml"):
            words[i] = f"shapes/{THIN[name.partition('/')[0]]}{dot}{ending}"
    if module.endswith(".benchmark"):
        words += ["--rounds", "1", "--batch-size", "1"]
    if module.endswith(".train_net"):
        if "--num-gpus" in words:
            words[words.index("--num-gpus") + 1] = "0"
        own = "train_mine.py" in line and "DATASETS.TRAIN" not in words
        words += ["DATASETS.TRAIN", "('mine_train',)", "DATASETS.TEST", "('mine_val',)"] if own else []
        words += SHORT.split()
    return module, tuple(words)


def needs_more(line: str) -> bool:
    """Whether a command is only read: a LazyConfig of COCO, and the classes of the reader's own panoptic set."""
    return ".py " in line.partition("--config-file")[2] or "('mine" in line and "PANOPTIC" in line.upper()


RUN = {thin_line(line): page for page, line in OURS if not needs_more(line)}


@pytest.mark.parametrize(("module", "words"), RUN)
def test_commands_run(module, words, reader, weights, exported, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [module, *words])
    for word in words:
        if word.endswith((".pth", ".pkl")):
            model = next(name for name in THIN.values() if name in " ".join(words))
            shutil.copy(weights / (model + word[-4:]), word)
    if module.startswith("pentamask_runner"):
        shutil.copy(exported("BlendMask_R_50_thin").path, "model.onnx")
    if "--from" in words:
        config = ["--config-file", "shapes/BlendMask_R_50_thin.yaml", *SHORT.split()]
        for folder in words[1 : words.index("--output")]:
            train_net.main(train_net.get_parser().parse_args([*config, "OUTPUT_DIR", folder]))
    importlib.import_module(module).cli()
    for flag in {"--output", "--save-json", "--json"} & set(words):
        assert Path(words[words.index(flag) + 1]).exists()
