"""The CUDA kernels without a GPU: csrc/cuda compiled for the processor and run by cuda_emulation/, see there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_emulation.build import build

from pentamask.ops import has_compiled_ops

HERE = Path(__file__).parent


def compiler_library(name: str) -> Path:
    """Where g++ keeps a library; a mere file name if it has none."""
    if shutil.which("g++") is None:
        return Path(name)
    command = ["g++", f"-print-file-name={name}"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


# AddressSanitizer's must be loaded before all others and, so that errors can be thrown, C++'s with it.
PRELOADED = [compiler_library(name) for name in ("libasan.so", "libstdc++.so")]
pytestmark = [
    pytest.mark.skipif(not all(path.is_absolute() for path in PRELOADED), reason="needs g++ with its sanitizers"),
    pytest.mark.skipif(not has_compiled_ops(), reason="the compiled ops are not built"),
]
DEFORM, BLEND = "cuda/ms_deform_attn_kernel.cu", "cuda/blend_kernel.cu"


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A script in a process of its own, under AddressSanitizer."""
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", ""))),
        LD_PRELOAD=" ".join(map(str, PRELOADED)),
        ASAN_OPTIONS="detect_leaks=0:detect_odr_violation=0",  # Python and torch keep what they allocate
        OMP_NUM_THREADS="1",
        TORCH_CPP_LOG_LEVEL="ERROR",
        **environment,
    )
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def library() -> str:
    return str(build())


def test_equals_the_reference_in_every_order_of_threads(library: str) -> None:
    result = run(HERE / "cuda_emulation" / "check.py", library)
    assert result.returncode == 0, result.stderr


def test_hostile_inputs(library: str) -> None:
    names = dict(PENTAMASK_OPS_LIBRARY=library, PENTAMASK_OPS_NAMESPACE="pentamask_emulated")
    result = run(HERE / "hostile.py", PENTAMASK_OPS_EVERY="5", **names)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("file", "before", "after", "error"),
    [
        pytest.param(
            DEFORM,
            "slots);\n        __syncthreads();\n        for (int i = 0; active",
            "slots);\n        for (int i = 0; active",
            "race of two threads",
            id="missing barrier",
        ),
        pytest.param(
            BLEND,
            "atomicAdd(image + k * softmax.pixels + reads.base[i], share",
            "*(image + k * softmax.pixels + reads.base[i]) += (share",
            "race of two threads",
            id="addition that is not atomic",
        ),
        pytest.param(
            DEFORM,
            "if (small) {  // the same",
            "if (small && active) {  // not the same",
            "not all of its threads come to the same",
            id="divergent shuffle",
        ),
        pytest.param(
            DEFORM,
            "bottom = place.y.high < place.height",
            "bottom = place.y.high <= place.height",
            "outside the memory allocated",
            id="one row too many",
        ),
        pytest.param(
            DEFORM,
            "if (channels % kMost == 0)",
            "if (channels % (kMost / 2) == 0)",
            "misaligned address",
            id="vector load that is too wide",
        ),
        pytest.param(
            DEFORM, "constexpr int kSlots = 512;", "constexpr int kSlots = 2048;", "shared memory", id="shared"
        ),
        pytest.param(
            BLEND,
            "kernel<T, C><<<blocks_for(numbers, kThreads), kThreads,",
            "kernel<T, C><<<blocks_for(numbers, kThreads), 2 * kThreads,",
            "__launch_bounds__",
            id="launch bounds",
        ),
    ],
)
def test_planted_bugs_are_found(file: str, before: str, after: str, error: str) -> None:
    operator = "blend" if file == BLEND else "ms_deform_attn"
    result = run(HERE / "cuda_emulation" / "check.py", str(build((file, before, after))), operator)
    assert result.returncode != 0 and error in result.stderr, result.stderr
