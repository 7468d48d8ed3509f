"""Wheels work after the checkout is gone, with the compiled operators and without them."""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

import pentamask

ROOT = Path(__file__).parent.parent
CHECK = """
import sys, torch, pentamask
from pentamask import model_zoo, ops
assert pentamask.__file__.startswith(sys.argv[1]), pentamask.__file__
config = model_zoo.get_config_file("BlendMask/Panoptic/R_50_1x.yaml")
assert config.startswith(sys.argv[1]), config
cfg = model_zoo.get_config("BlendMask/Panoptic/R_50_1x.yaml")
bases = torch.rand(1, 4, 6, 6, requires_grad=True)
rois = torch.tensor([[0.0, 1.0, 1.0, 20.0, 18.0]])
out = ops.blend(bases, rois, torch.rand(1, 4, 7, 7), 0.25, 14)
out.sum().backward()
assert out.shape == (1, 14, 14) and bases.grad.abs().sum() > 0
print("compiled" if ops.has_compiled_ops() else "plain")
"""


def run(*command: str, **environment: str) -> str:
    """Output of a command, which must succeed."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python_without_torch(folder: Path) -> dict[str, str]:
    """The environment in which `python -S` finds setuptools and nothing else."""
    purelib = Path(sysconfig.get_path("purelib"))
    for path in (purelib / "_distutils_hack", *purelib.glob("setuptools*")):
        (folder / path.name).symlink_to(path)
    return {"PYTHONPATH": str(folder)}


def build_wheel(sdist: Path, folder: Path, **environment: str) -> Path:
    """A wheel made from the sdist, whose unpacked files are deleted afterwards."""
    with tarfile.open(sdist) as packed:
        packed.extractall(folder)
    source = next(path for path in folder.iterdir() if path.is_dir())
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(folder))
    run(*pip, str(source), **environment)
    shutil.rmtree(source)
    return next(folder.glob("*.whl"))


def use_wheel(wheel: Path, folder: Path) -> str:
    """Install a wheel in `folder` and let CHECK run with it; returns its last line, "compiled" or "plain".

    -S keeps the checkout out, which an editable installation adds to every Python of this environment.
    """
    site = str(folder / "site")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, str(wheel))
    packages = os.pathsep.join([site, sysconfig.get_path("purelib")])
    output = run(sys.executable, "-S", "-W", "ignore", "-c", CHECK, site, PYTHONPATH=packages)
    return output.split()[-1]


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, made from a copy of the checkout where neither PyTorch nor CUDA is."""
    folder = tmp_path_factory.mktemp("sdist")
    made = (".git", ".venv", "build", "output", "*.so", "*.egg-info", "__pycache__", ".*_cache")
    ignored = shutil.ignore_patterns(*made)
    shutil.copytree(ROOT, folder / "checkout", symlinks=True, ignore=ignored)
    environment = os.environ | python_without_torch(folder)
    command = (sys.executable, "-S", "setup.py", "-q", "sdist", "-d", str(folder))
    subprocess.run(command, cwd=folder / "checkout", env=environment, check=True)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel with the operators, compiled from the sdist for the CPU."""
    return build_wheel(sdist, tmp_path_factory.mktemp("wheel"), PENTAMASK_FORCE_CPU="1", PENTAMASK_NO_EXTENSION="0")


def test_sdist_is_the_whole_repository(sdist: Path) -> None:
    with tarfile.open(sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {path.name for path in ROOT.glob("*.*") if path.is_file() and path.name != ".git"} <= names
    assert {"Makefile", "LICENSE", ".ci/run"} <= names
    for folder in ("csrc", "configs", "tests", "dev", "benchmarks", "docs", "projects"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        kept = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".so"}
        assert {name for name in kept - names if ".egg-info/" not in name} == set()
    assert "csrc/cuda/blend_kernel.cu" in names
    assert not any(name.startswith("projects/pentamask/configs") or name.endswith(".so") for name in names)


def run_setup(*command: str, **environment: str) -> subprocess.CompletedProcess:
    """`setup.py` under a Python that sees the packages of PYTHONPATH only."""
    done = (sys.executable, "-S", "setup.py", *command)
    return subprocess.run(done, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_build_without_torch_is_one_line(tmp_path: Path) -> None:
    done = run_setup("dist_info", **python_without_torch(tmp_path), PENTAMASK_NO_EXTENSION="0")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "pip install --no-build-isolation ." in done.stderr and "PENTAMASK_NO_EXTENSION=1" in done.stderr


@pytest.mark.parametrize("version", ["65.5.0", "70.0.0"])
def test_build_with_an_old_setuptools_is_one_line(version: str, tmp_path: Path) -> None:
    (tmp_path / "setuptools.py").write_text(f"__version__ = {version!r}\nfind_packages = setup = None\n")
    done = run_setup("bdist_wheel", PYTHONPATH=str(tmp_path), PENTAMASK_NO_EXTENSION="1")
    line = f"pentamask needs setuptools >= 70.1 to be built, found {version}: pip install -U setuptools\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_wheel_contains_the_whole_package(wheel: Path) -> None:
    packed = set(ZipFile(wheel).namelist())
    projects = ROOT / "projects"
    sources = [path for path in projects.rglob("*") if path.suffix in (".py", ".md", ".typed", ".jinja")]
    assert {path.relative_to(projects).as_posix() for path in sources} <= packed
    configs = [path for path in (ROOT / "configs").rglob("*") if path.suffix in (".py", ".yaml")]
    assert {f"pentamask/configs/{path.relative_to(ROOT / 'configs')}" for path in configs} <= packed
    assert "pentamask/_C.abi3.so" in packed
    assert wheel.name.split("-")[2:4] == ["cp310", "abi3"]  # any Python from 3.10 on
    assert all(name.startswith(("pentamask/", "pentamask_runner/", "pentamask-")) for name in packed)


def test_commands_are_tools(wheel: Path) -> None:
    with ZipFile(wheel) as packed:
        name = next(name for name in packed.namelist() if name.endswith("entry_points.txt"))
        lines = packed.read(name).decode().split("[console_scripts]\n")[1].split("\n\n")[0].split()
    commands = dict(zip(lines[::3], lines[2::3]))
    assert commands["pentamask-web-demo"] == "pentamask.tools.web_demo:cli"
    for target in commands.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    assert use_wheel(wheel, tmp_path) == "compiled"


def test_wheel_without_compiler_works(sdist: Path, tmp_path: Path) -> None:
    wheel = build_wheel(sdist, tmp_path, PENTAMASK_NO_EXTENSION="1")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not any(name.endswith(".so") for name in ZipFile(wheel).namelist())
    assert use_wheel(wheel, tmp_path) == "plain"


def test_editable_installation_uses_the_checkout() -> None:
    assert Path(pentamask.__file__) == ROOT / "projects" / "pentamask" / "__init__.py"
    from pentamask.model_zoo import get_config_file

    assert Path(get_config_file("BlendMask/R_50_1x.yaml")).resolve() == ROOT / "configs" / "BlendMask" / "R_50_1x.yaml"


def test_missing_detectron2_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "detectron2.py").write_text("raise ImportError('No module named detectron2')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = (sys.executable, "-c", "import pentamask")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pentamask needs PyTorch, torchvision and Detectron2" in done.stderr
    assert "facebookresearch/detectron2.git" in done.stderr and "sal-detectron2" in done.stderr
