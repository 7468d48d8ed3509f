"""Builds the package `pentamask` from `projects/`, with `configs/` inside it and the ops of `csrc/` compiled.

CUDA is compiled where a GPU and a toolkit of torch's CUDA version are found. Environment: PENTAMASK_NO_EXTENSION=1
installs pure Python; PENTAMASK_FORCE_CPU=1 leaves CUDA out; PENTAMASK_FORCE_CUDA=1 (or FORCE_CUDA=1) compiles it
without a GPU, and a missing toolkit is then an error; TORCH_CUDA_ARCH_LIST chooses the GPUs.
"""

import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import setuptools
from setuptools import find_packages, setup

# The C++ standard is not among the flags: torch's build command adds the one that its headers need, for nvcc as well.
# Neither errno nor floating-point traps are read; with both off, compilers vectorise floor, min/max and float -> int.
HOST_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp"]
LIMITED_API = ["-DPy_LIMITED_API=0x030A0000"]  # Python 3.10's: one binary for that and every later one
# What single tools need beyond that; each says so in one line when it is missing.
EXTRAS = {
    "onnx": ["onnx", "onnxscript>=0.7", "onnxruntime>=1.25"],
    "fast": ["hotcoco"],
    "report": ["jinja2"],
    "web": ["gradio"],
    "docs": ["mkdocs", "mkdocstrings[python]"],
}
# Of pentamask.tools, each also a command `pentamask-NAME`.
COMMANDS = (
    "analyze_model",
    "benchmark",
    "check_data",
    "collect_env",
    "config",
    "convert_weights",
    "demo",
    "explain",
    "export_model",
    "list_models",
    "replay_batch",
    "report",
    "run_onnx",
    "train_net",
    "visualize_data",
    "web_demo",
)


def asked(*names: str) -> bool:
    """Whether one of the environment variables is set to 1."""
    return any(os.environ.get(name) == "1" for name in names)


def cuda_toolkit() -> str | None:
    """Folder of the CUDA toolkit to compile with, None for none; an error if CUDA was asked for and cannot be had."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if asked("PENTAMASK_FORCE_CPU"):
        return None
    forced = asked("PENTAMASK_FORCE_CUDA", "FORCE_CUDA")
    if forced and (CUDA_HOME is None or torch.version.cuda is None):
        missing = "a CUDA build of torch" if torch.version.cuda is None else "nvcc (CUDA_HOME or PATH)"
        raise SystemExit(f"CUDA ops were asked for (PENTAMASK_FORCE_CUDA=1), but {missing} was not found.")
    if forced or (torch.cuda.is_available() and CUDA_HOME is not None and same_major(CUDA_HOME, torch.version.cuda)):
        return CUDA_HOME
    return None


def same_major(toolkit: str, version: str) -> bool:
    """Whether the nvcc in `toolkit` has the major version of the CUDA that torch was built with."""
    nvcc = os.path.join(toolkit, "bin", "nvcc")
    output = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.", output)
    return release is not None and release.group(1) == version.split(".")[0]


def set_architectures() -> None:
    """Where no GPU tells: the GPUs that the toolkit of torch's version can compile for."""
    import torch

    if os.environ.get("TORCH_CUDA_ARCH_LIST") or torch.cuda.is_available():
        return
    major, minor = (int(part) for part in torch.version.cuda.split(".")[:2])
    if major >= 13:
        architectures = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
    elif (major, minor) >= (12, 8):
        architectures = "7.0;7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
    else:
        architectures = "7.0;7.5;8.0;8.6;8.9;9.0+PTX"
    os.environ["TORCH_CUDA_ARCH_LIST"] = architectures


def check_setuptools() -> None:
    """A readable line where pip and setuptools would end in "invalid command 'bdist_wheel'"."""
    found = setuptools.__version__
    release = re.match(r"(\d+)\.(\d+)", found)
    if release is not None and (int(release[1]), int(release[2])) < (70, 1):
        raise SystemExit(f"pentamask needs setuptools >= 70.1 to be built, found {found}: pip install -U setuptools")


def has_torch() -> bool:
    """Whether the ops can be compiled. Without torch only an sdist can be made, and `egg_info` on the way to one."""
    found = importlib.util.find_spec("torch") is not None
    if not found and not {"sdist", "egg_info"} & set(sys.argv):
        raise SystemExit(
            "pentamask's operators are compiled for the installed PyTorch, and none is found here: install it and use "
            "`pip install --no-build-isolation .`, or set PENTAMASK_NO_EXTENSION=1 to do without the operators."
        )
    return found


def link_flags() -> list[str]:
    """What links OpenMP, where torch does not bring it.

    GCC's runtime comes with libtorch_cpu, sometimes under a name of its own. Naming it again would load a second one,
    whose idle threads take the cores from the first's.
    """
    compiler = os.environ.get("CXX", "c++")
    version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, check=False).stdout
    return ["-fopenmp"] if "clang" in version else []


def get_extensions() -> dict:
    """The compiled ops and how to build them, as arguments of `setup`; none when the environment rules them out."""
    if asked("PENTAMASK_NO_EXTENSION") or not has_torch():
        return {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    sources = sorted(glob.glob("csrc/*.cpp") + glob.glob("csrc/cpu/*.cpp"))
    flags, extension = {"cxx": HOST_FLAGS + LIMITED_API}, CppExtension
    if cuda_toolkit() is not None:
        set_architectures()
        sources += sorted(glob.glob("csrc/cuda/*.cu") + glob.glob("csrc/cuda/*.cpp"))
        flags["nvcc"], extension = ["-O3"], CUDAExtension
    headers = sorted(glob.glob("csrc/**/*.h", recursive=True) + glob.glob("csrc/**/*.cuh", recursive=True))
    module = extension(
        "pentamask._C",
        sources,
        depends=headers,
        extra_compile_args=flags,
        extra_link_args=link_flags(),
        py_limited_api=True,
    )
    return {
        "ext_modules": [module],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def link_configs() -> None:
    """Make `configs/` a part of the package where the checkout could not hold the link `projects/pentamask/configs`."""
    link = os.path.join("projects", "pentamask", "configs")
    if os.path.isdir(link):
        return
    if os.path.lexists(link):
        os.remove(link)  # git writes a text file where links are not allowed
    try:
        os.symlink(os.path.join("..", "..", "configs"), link, target_is_directory=True)
    except OSError:
        shutil.copytree("configs", link)


check_setuptools()
link_configs()
setup(
    name="pentamask",
    version="0.1.0",
    description="BlendMask, CenterMask, YOLACT, Mask R-CNN and Panoptic SegFormer as Detectron2 plugins",
    python_requires=">=3.10",
    # PyTorch, torchvision and Detectron2 are chosen by the user; `import pentamask` says how to get them.
    install_requires=["scipy", "shapely"],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [f"pentamask-{name.replace('_', '-')} = pentamask.tools.{name}:cli" for name in COMMANDS]
    },
    package_dir={"": "projects"},
    packages=find_packages("projects"),
    package_data={
        "pentamask.configs": ["*/*.yaml", "*/*/*.yaml", "*/*.py", "*/*/*.py"],
        "pentamask": ["py.typed", "*/README.md", "report/*.jinja"],
    },
    zip_safe=False,
    **get_extensions(),
)
