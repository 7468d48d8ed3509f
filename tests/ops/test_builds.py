"""Every instruction set, and no extension at all: each in a process of its own, as the choice is made once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pentamask.ops import has_compiled_ops

HERE = Path(__file__).parent
CHECK = """
import torch
from op_samples import OPS, SMALL, assert_near, cast, deform_args, blend_args, sam_args, run
cases = [(name, make()) for name, make in SMALL.items()]
cases += [("ms_deform_attn", deform_args([(5, 4), (2, 3)], 1, 60, 2, d, 9)) for d in (1, 20, 32, 64)]
cases += [("blend", blend_args(1, 5, (9, 33), 7, 14, 56)), ("spatial_attention", sam_args(2, 33, (14, 14)))]
for name, args in cases:
    op = OPS[name]
    exact = run(op.oracle, cast(name, args, torch.float64), op.grads)
    assert_near(run(op.function, args, op.grads), exact, 5e-5)
    assert_near(run(op.function, cast(name, args, torch.float64), op.grads), exact, 1e-12)
from test_packed import test_convolution, test_linear
for dtype in (torch.float32, torch.float64):
    test_linear((23,), 1100, 96, dtype)
    test_convolution(2, 32, 48, (5, 7), dtype)
print("checked")
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    environment = dict(os.environ, PYTHONPATH=str(HERE), OMP_NUM_THREADS="1", **environment)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not has_compiled_ops(), reason="the compiled ops are not built")
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(level: str) -> None:
    result = run_python(CHECK, PENTAMASK_CPU_CAPABILITY=level)
    if "this processor has only" in result.stderr:
        pytest.skip(f"this processor has no {level}")
    assert result.stdout.strip() == "checked", result.stderr


@pytest.mark.skipif(not has_compiled_ops(), reason="the compiled ops are not built")
def test_an_unknown_instruction_set_is_an_error() -> None:
    result = run_python(CHECK, PENTAMASK_CPU_CAPABILITY="mmx")
    assert "PENTAMASK_CPU_CAPABILITY=mmx: expected baseline, avx2 or avx512" in result.stderr


def test_without_the_extension_the_plain_versions_run_after_one_warning() -> None:
    result = run_python("import sys\nsys.modules['pentamask._C'] = None\n" + CHECK)
    assert result.stdout.strip() == "checked", result.stderr
    assert result.stderr.count("compiled ops are missing") == 1
