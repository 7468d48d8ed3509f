"""What every test may rely on: a private, tiny copy of the shapes dataset under its usual names."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # authors_files.py, checkpoint_samples.py

# Before anything imports Detectron2 or pentamask, which read it once; child processes inherit it.
_DATASETS = tempfile.mkdtemp(prefix="pentamask_tests_")
atexit.register(shutil.rmtree, _DATASETS, ignore_errors=True)
os.environ["DETECTRON2_DATASETS"] = _DATASETS
if "OMP_WAIT_POLICY" not in os.environ:  # as `import pentamask` does, for tests that import torch first
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@pytest.fixture(scope="session")
def shapes() -> str:
    """The folder of shapes_train (12 images) and shapes_val (6 images), which are registered on import."""
    from pentamask.data.shapes import default_root, write_shapes

    write_shapes(default_root(), {"train": 12, "val": 6})
    return default_root()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives a thin model with its ONNX file, by its name: `exported_models.Exported`."""
    from exported_models import Exporter

    return Exporter(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")  # not longer: while it is there, asyncio.run refuses to work
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "Tests of pages need Chromium on the PATH as `chromium`: `make test` installs Debian's."
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """An empty page; at the end nothing may have failed in it, nor been asked of another host."""
    opened = browser.new_page(viewport={"width": 1240, "height": 900})
    problems: list[str] = []
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    local = ("file:", "data:", "blob:", "http://127.0.0.1", "ws://127.0.0.1")
    opened.on("request", lambda r: None if r.url.startswith(local) else problems.append(f"asked for {r.url}"))
    yield opened
    opened.close()
    assert not problems
