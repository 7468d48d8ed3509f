"""Threads of OpenMP sleep while they wait, and the operators use the pool that torch has."""

import os
import re
import subprocess
import sys

import pytest

from pentamask.ops import has_compiled_ops


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """A Python process whose OpenMP runtimes print their settings on stderr, once each."""
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    environment = inherited | {"OMP_DISPLAY_ENV": "VERBOSE"} | environment
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


def spin_counts(**environment: str) -> list[str]:
    return re.findall("GOMP_SPINCOUNT = '(.*)'", run("import pentamask", **environment).stderr)


def test_threads_sleep_soon_after_import_of_pentamask() -> None:
    assert spin_counts() == ["1000"]
    assert spin_counts(GOMP_SPINCOUNT="7") == ["7"]


def test_the_users_policy_is_kept() -> None:
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in run("import pentamask", OMP_WAIT_POLICY="ACTIVE").stderr
    assert int(spin_counts(OMP_WAIT_POLICY="ACTIVE")[0]) > 1000


@pytest.mark.skipif(not has_compiled_ops(), reason="the compiled ops are not built")
def test_the_operators_bring_no_second_openmp() -> None:
    runtimes = "import {}; print(sum('libgomp' in line or 'libomp' in line for line in open('/proc/self/maps')))"
    torch_alone = run(runtimes.format("torch, torchvision")).stdout
    assert run(runtimes.format("torch, torchvision, pentamask.ops._extension")).stdout == torch_alone
