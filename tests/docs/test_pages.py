"""Python blocks of the pages run, and every block is of a kind that some test reads."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from doc_pages import DOCS, PAGES, ROOT, Block, blocks
from mkdocs.config import load_config
from PIL import Image
from thin_models import scenes

from pentamask import model_zoo

# A plugin that docs/extending.md shows is run by tests/test_plugin.py, as a package of its own.
RUN_ELSEWHERE = {"docs/extending.md"}
# Blocks with these words are only compiled: a model takes five minutes to be compiled ahead of time.
NOT_RUN = ("aoti_load_package",)


@pytest.fixture(autouse=True)
def own_datasets() -> Iterator[None]:
    """What a page registers is forgotten after it."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def write_file(name: str, request: pytest.FixtureRequest) -> None:
    """A file of the reader, into the working folder."""
    if name == "R_50_3x.pth":
        cfg = model_zoo.get_config("BlendMask/R_50_3x.yaml")
        cfg.MODEL.DEVICE = "cpu"
        torch.save({"model": build_model(cfg).state_dict()}, name)
    if name == "photo.jpg":
        Image.fromarray(scenes(1)[0].permute(1, 2, 0).numpy()).save(name)
    if name == "model.onnx":
        shutil.copy(request.getfixturevalue("exported")("BlendMask_R_50_thin").path, name)


WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: str, request: pytest.FixtureRequest
) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": page.stem}
    for block in blocks(page):
        if block.language != "python" or block.page in RUN_ELSEWHERE:
            continue
        code = compile(block.code, block.page, "exec")
        for name in ("R_50_3x.pth", "photo.jpg", "model.onnx"):
            if f'"{name}"' in block.code:
                write_file(name, request)
        if not any(words in block.code for words in NOT_RUN):
            exec(code, namespace)


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page)], ids=lambda block: block.page)
def test_every_block_is_of_a_known_kind(block: Block) -> None:
    """ "console" is for test_commands.py; "text" and "cpp" are not run."""
    assert block.language in ("python", "console", "yaml", "toml", "cpp", "text"), f"{block.page}: {block.code}"
    if block.language == "yaml":
        yaml.safe_load(block.code)
    if block.language == "toml":
        pytest.importorskip("tomllib").loads(block.code)


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    assert all(str(page.relative_to(ROOT / "docs")) in menu for page in DOCS)


def test_pages_ask_no_other_host() -> None:
    assert load_config(str(ROOT / "mkdocs.yml")).theme["highlightjs"] is False
