"""What every test may rely on: a private, tiny copy of the shapes dataset under its usual names."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

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
