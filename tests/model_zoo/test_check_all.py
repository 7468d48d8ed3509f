"""The script that reports on every config, on two small ones and on one that fails."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "check_all.py"


def _run(*names: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, SCRIPT, *names], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def test_small_configs_pass() -> None:
    status, lines = _run("shapes/YOLACT_R_50_thin.yaml", "shapes/PanopticSegFormer_R_50_thin.yaml")
    assert status == 0
    assert lines[:2] == ["| config | parameters | builds | loads | forward |", "|---|---|---|---|---|"]
    assert lines[2] == "| `shapes/YOLACT_R_50_thin.yaml` | 1.89 M | yes | 350 entries | instances |"
    assert lines[3].endswith("| 3.98 M | yes | 593 entries | instances, panoptic_seg, sem_seg |")


def test_a_failure_is_shown_and_the_rest_still_checked() -> None:
    status, lines = _run("shapes/none.yaml", "shapes/BlendMask_R_50_thin.yaml")
    assert status == 1
    assert "| `shapes/none.yaml` | **RuntimeError** |" in lines[2] and lines[3].endswith("| instances |")
