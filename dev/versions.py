"""Install, test and train with several versions of Python and PyTorch: `make versions`.

Makes an sdist, and for every row an environment from it in a temporary folder, by the Makefile: PyTorch and torchvision
as the row says, everything else the newest that fits. There run the tests of the operators, of optimised and of
exported models, and five training iterations of every model of configs/shapes. Prints the table of docs/index.md; logs
lie in output/versions. Takes some 7 GB of disk at a time and needs each python3.N on PATH. Arguments choose rows by
their Python: dev/versions.py 3.10 3.13
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "output" / "versions"
ROWS = (("3.10", "2.6.0", "0.21.0"), ("3.11", "2.11.0", "0.26.0"), ("3.13", "2.15.0", "0.29.2"))
EXPORTS_FROM = "2.10"  # see pentamask.export.program
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "setuptools")
PRINT_VERSIONS = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"


def make_sdist(folder: Path) -> Path:
    """The sdist of this checkout, whose name ends in .tar.gz."""
    command = [sys.executable, "setup.py", "-q", "sdist", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.tar.gz"))


def steps(python: str, models: list[Path]) -> dict[str, list[list[str]]]:
    """Column of the table to the commands that it stands for, in the order in which they run."""
    run = os.path.join(".venv", "bin", "python")
    train = [run, "train_net.py", "--config-file"]
    options = ["SOLVER.MAX_ITER", "5", "DATASETS.TEST", "()", "OUTPUT_DIR"]
    return {
        "installs": [["make", f"PYTHON={python}", "CONSTRAINTS=versions.txt", ".venv/.built"]],
        "operators": [[run, "-m", "pytest", "tests/ops", "tests/test_openmp.py"]],
        "optimised": [[run, "-m", "pytest", "tests/optimize", "tests/graph"]],
        "exports": [[run, "-m", "pytest", "tests/export"]],
        "models": [[*train, str(model), *options, f"output/{model.stem}"] for model in models],
    }


def try_row(row: tuple[str, str, str], sdist: Path, datasets: Path) -> list[str]:
    """The cells of a row of the table."""
    version, torch, torchvision = row
    log = LOGS / f"python{version}_torch{torch}.log"
    python = shutil.which(f"python{version}")
    if python is None:
        return [*row, *["?"] * len(LIBRARIES), f"no python{version} on PATH"]
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory(prefix="pentamask_") as folder, log.open("w") as output:
        with tarfile.open(sdist) as packed:
            packed.extractall(folder, filter="data")
        tree = next(Path(folder).iterdir())
        (tree / "versions.txt").write_text(f"torch=={torch}\ntorchvision=={torchvision}\n")

        def succeeds(command: list[str]) -> bool:
            print("$", *command, file=output, flush=True)
            done = subprocess.run(command, cwd=tree, env=environment, stdout=output, stderr=output, check=False)
            return done.returncode == 0

        results = []
        models = sorted(path.relative_to(tree) for path in tree.glob("configs/shapes/*_thin.yaml"))
        for column, commands in steps(python, models).items():
            if column == "exports" and Version(torch) < Version(EXPORTS_FROM):
                results.append("refused")
                continue
            passed = [succeeds(command) for command in commands]
            results.append("yes" if all(passed) else f"{sum(passed)} of {len(passed)}")
            if results[0] != "yes":
                return [*row, *["?"] * len(LIBRARIES), f"does not install, see {log}"]
        ask = [tree / ".venv" / "bin" / "python", "-c", PRINT_VERSIONS, *LIBRARIES]
        libraries = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()
    return [*row, *libraries, *results]


def main(pythons: list[str]) -> int:
    """Print the table row by row; 1 if anything failed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    head = ["Python", "PyTorch", "torchvision", *LIBRARIES, *steps("", [])]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory(prefix="pentamask_sdist_") as folder:
        sdist = make_sdist(Path(folder))
        for row in ROWS:
            if pythons and row[0] not in pythons:
                continue
            cells = try_row(row, sdist, Path(folder) / "datasets")
            failed = failed or set(cells[len(row) + len(LIBRARIES) :]) - {"refused"} != {"yes"}
            print("| " + " | ".join(cells) + " |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
