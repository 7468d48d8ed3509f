"""Replays the recorded runs of the authors' code: `pytest tests/reference [--cases DIR]`."""

import shutil
from pathlib import Path

import blendmask
import centermask
import numpy as np
import panoptic_segformer
import pytest
import yolact
from harness import Case, Comparison

# First words of a case's "source" -> the module that replays it.
FAMILIES = {
    "AdelaiDet": blendmask,
    "youngwanLEE/centermask2": centermask,
    "zhiqi-li/Panoptic-SegFormer": panoptic_segformer,
    "dbolya/yolact": yolact,
}


def test_replay(case_path: Path, record_error, tmp_path: Path) -> None:
    case = Case(case_path)
    family = next((module for name, module in FAMILIES.items() if case.spec["source"].startswith(name)), None)
    assert family is not None, f"no replay for source {case.spec['source']!r}"
    comparison = Comparison(case.outputs)
    family.replay(case, comparison, tmp_path)
    record_error(f"{case_path.parent.name}/{case_path.name}", *comparison.worst)
    comparison.finish()


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
