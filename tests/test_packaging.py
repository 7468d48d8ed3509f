"""Wheels work after the checkout is gone, with the compiled operators and without them."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest
from setuptools import Distribution

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


def build_wheel(folder: Path, **environment: str) -> Path:
    """A wheel made from a copy of the sources, which is deleted afterwards.

    The operators that the checkout has compiled already count as up to date, which saves minutes. PyTorch's build
    command would compile them regardless if it had ninja, so it gets one that does not work.
    """
    source = folder / "checkout"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("projects", "configs", "csrc"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    build = Distribution().get_command_obj("build")
    build.ensure_finalized()
    for library in (ROOT / "projects" / "pentamask").glob("_C*.so"):
        compiled = source / build.build_platlib / "pentamask" / library.name
        compiled.parent.mkdir(parents=True)
        shutil.copyfile(library, compiled)
    ninja = folder / "bin" / "ninja"
    ninja.parent.mkdir()
    ninja.write_text("#!/bin/sh\nexit 1\n")
    ninja.chmod(0o755)
    environment["PATH"] = os.pathsep.join([str(ninja.parent), os.environ["PATH"]])
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
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel with the operators compiled for the CPU."""
    return build_wheel(tmp_path_factory.mktemp("wheel"), PENTAMASK_FORCE_CPU="1", PENTAMASK_NO_EXTENSION="0")


def test_wheel_contains_the_whole_package(wheel: Path) -> None:
    packed = set(ZipFile(wheel).namelist())
    projects = ROOT / "projects"
    sources = [path for path in projects.rglob("*") if path.suffix in (".py", ".md", ".typed")]
    assert {path.relative_to(projects).as_posix() for path in sources} <= packed
    configs = [path for path in (ROOT / "configs").rglob("*") if path.suffix in (".py", ".yaml")]
    assert {f"pentamask/configs/{path.relative_to(ROOT / 'configs')}" for path in configs} <= packed
    assert any(name.startswith("pentamask/_C") and name.endswith(".so") for name in packed)
    assert all(name.startswith(("pentamask/", "pentamask-")) for name in packed)


def test_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    assert use_wheel(wheel, tmp_path) == "compiled"


def test_wheel_without_compiler_works(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, PENTAMASK_NO_EXTENSION="1")
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
