"""Compiles csrc/cuda with the host compiler: the operators as `torch.ops.pentamask_emulated`, on CPU tensors.

The sources are copied into a folder of build/ named after their hash, with the few things rewritten that C++ lacks: see
REWRITES. emulation.h stands for CUDA's headers.
"""

import hashlib
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build" / "cuda_emulation"
REWRITES = [
    (r"#include <(?:cuda_\w+|c10/cuda/\w+)\.h>", "#include <emulation.h>"),
    (
        r"__global__ void __launch_bounds__\((\w+)(?:, \w+)?\)\s+(\w+)\(([^{]*)\) \{",
        r"void \2(\3) { emulation::check_launch_bounds(\1);",
    ),
    (r"__shared__ (.+?) (\w+)\[(.+)\];", r"auto& \2 = emulation::shared<\1[\3], __LINE__>();"),
    (r"(\w+(?:<[^<>;]*>)?)<<<(.*?)>>>\(", r"emulation::launch({\2}, [](auto... arguments) { \1(arguments...); }, "),
    (r"TORCH_LIBRARY\(pentamask,", "TORCH_LIBRARY(pentamask_emulated,"),
    (r"TORCH_LIBRARY_IMPL\(pentamask, CUDA,", "TORCH_LIBRARY_IMPL(pentamask_emulated, CPU,"),
]
TORCH = Path(torch.__file__).parent
INCLUDES = [f"-I{HERE}", f"-isystem{TORCH / 'include'}", f"-isystem{sysconfig.get_path('include')}"]
ABI = f"-D_GLIBCXX_USE_CXX11_ABI={torch.compiled_with_cxx11_abi():d}"  # PyTorch 2.6 has the old one
HOST = ["g++", "-std=c++20", "-O1", "-g1", "-fPIC", ABI, *INCLUDES]
# Every access of a kernel becomes a call, which emulation.cpp answers; see there.
KERNEL = [
    *("-x", "c++", "-fsanitize=thread,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
    *("--param", "tsan-instrument-func-entry-exit=0"),
]


def rewritten(change: tuple[str, str, str] | None) -> dict[str, str]:
    """Path below csrc and text of every source and header that the CUDA operators are made of."""
    csrc = ROOT / "csrc"
    sources = {}
    for path in [csrc / "schema.cpp", *sorted(csrc.glob("*.h")), *sorted((csrc / "cuda").glob("*.*"))]:
        name, text = str(path.relative_to(csrc)), path.read_text()
        if change is not None and change[0] == name:
            assert text.count(change[1]) == 1, f"{change[1]!r} does not stand in {name} once"
            text = text.replace(change[1], change[2])
        for pattern, replacement in REWRITES:
            text = re.sub(pattern, replacement, text)
        assert not re.search(r"<<<|__shared__|__global__", text), f"build.py does not rewrite all of {path}"
        sources[name] = text
    return sources


def digest_of(*parts: str) -> str:
    """A short name for these texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def once(target: Path, command: list[str]) -> Path:
    """Make `target` with `command`, to which its name is appended, unless it is there."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")  # so that nobody finds half of it
        subprocess.run([*command, "-o", str(partial)], check=True)
        partial.rename(target)
    return target


def compile_object(source: Path, sources: dict[str, str]) -> Path:
    """Compile one file, unless its object was made from the same texts."""
    flags = KERNEL if source.suffix == ".cu" else []
    headers = [text for name, text in sources.items() if name.endswith((".h", ".cuh"))]
    parts = [torch.__version__, *HOST, *flags, source.read_text(), (HERE / "emulation.h").read_text(), *headers]
    command = [*HOST, *flags, "-c", str(source)]
    return once(BUILD / "objects" / f"{source.stem}.{digest_of(*parts)}.o", command)


def build(change: tuple[str, str, str] | None = None) -> Path:
    """The library, compiled as far as it was not.

    Args:
        change: a file below csrc, a text that stands in it once, and what to put in its place: to plant a bug.
    """
    sources = rewritten(change)
    folder = BUILD / digest_of(*sources.values())
    for name, text in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    files = [folder / name for name in sources if name.endswith((".cpp", ".cu"))]
    objects = [str(compile_object(file, sources)) for file in [*files, HERE / "emulation.cpp"]]
    # What AddressSanitizer knows is left to the process that loads the library.
    command = ["g++", "-shared", *objects, f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10", "-lubsan"]
    return once(BUILD / f"emulated.{digest_of(*command)}.so", command)
