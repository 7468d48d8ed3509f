"""Replays the recorded runs of the authors' code: `pytest tests/reference [--cases DIR]`."""

import contextlib
import shutil
import statistics
from pathlib import Path
from types import ModuleType

import blendmask
import centermask
import numpy as np
import panoptic_segformer
import pytest
import torch
import yolact
from harness import Case, Comparison

# First words of a case's "source" -> the module that replays it.
FAMILIES = {
    "AdelaiDet": blendmask,
    "youngwanLEE/centermask2": centermask,
    "zhiqi-li/Panoptic-SegFormer": panoptic_segformer,
    "dbolya/yolact": yolact,
}


# What --precision computes in, and the bound of the median of a case's errors, relative to an array's largest value.
# The largest error says little: most cases were recorded in float64, and rounding changes which objects are found.
PRECISIONS = {"fp32": (None, 1e-4), "bf16": (torch.bfloat16, 8e-2), "fp16": (torch.float16, 2e-2)}


def find_family(case: Case) -> ModuleType:
    family = next((module for name, module in FAMILIES.items() if case.spec["source"].startswith(name)), None)
    assert family is not None, f"no replay for source {case.spec['source']!r}"
    return family


def test_replay(case_path: Path, record_errors, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    device, precision = pytestconfig.getoption("--device", "cpu"), pytestconfig.getoption("--precision", None)
    case = Case(case_path, device, None if precision is None else torch.float32)
    comparison = Comparison(case.outputs)
    with torch.device(device), torch.backends.cudnn.flags(allow_tf32=False):
        if precision is None:
            find_family(case).replay(case, comparison, tmp_path)
            comparison.finish()
        else:
            replay_rounded(case, comparison, *PRECISIONS[precision], tmp_path)
    record_errors(f"{case_path.parent.name}/{case_path.name}", comparison.errors)


def replay_rounded(
    case: Case, comparison: Comparison, autocast: torch.dtype | None, bound: float, tmp_path: Path
) -> None:
    """In float32 or under autocast, where decisions may differ, and with them what there is to compare."""
    reduced = torch.autocast(torch.device(case.device).type, autocast, enabled=autocast is not None)
    with reduced, contextlib.suppress(AssertionError):
        find_family(case).replay(case, comparison, tmp_path)
    if comparison.errors:
        assert statistics.median_low(comparison.errors.values()) <= bound, comparison.errors


@pytest.mark.parametrize("left_out", ["panoptic_", "instance_"])
def test_what_a_case_lacks_is_not_compared(left_out: str, tmp_path: Path) -> None:
    """Of the panoptic map or the instances; and an array that nothing compares is a failure."""
    folder = tmp_path / "merging"
    shutil.copytree(Path(__file__).parent / "cases/panoptic_segformer/merging", folder)
    kept = {k: v for k, v in np.load(folder / "outputs.npz").items() if left_out not in k}
    kept = {k: v for k, v in kept.items() if left_out == "instance_" or not k.endswith("segments")}
    for extra, passes in ({}, True), ({"unknown": np.zeros(1)}, False):
        np.savez(folder / "outputs.npz", **kept, **extra)
        case = Case(folder)
        comparison = Comparison(case.outputs)
        panoptic_segformer.replay(case, comparison, tmp_path)
        assert comparison.failures == []
        if passes:
            comparison.finish()
        else:
            with pytest.raises(AssertionError, match="recorded but not compared: unknown"):
                comparison.finish()
