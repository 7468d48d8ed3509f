"""Replays the recorded runs of the authors' code: `pytest tests/reference [--cases DIR]`."""

from pathlib import Path

import blendmask
import centermask
import panoptic_segformer
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
