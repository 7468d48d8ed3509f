"""dev/gpu.py: what a step's end, its results and the table look like. The steps themselves: dev/gpu.sh --dry-run."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("gpu", Path(__file__).parents[2] / "dev" / "gpu.py")
gpu = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gpu)


def run(tmp_path: Path, code: str, seconds: float = 20, **fields) -> dict:
    return gpu.run_step(gpu.Step("step", [sys.executable, "-c", code], seconds, **fields), tmp_path)


def test_how_a_step_ends(tmp_path: Path) -> None:
    assert run(tmp_path, "pass")["ok"]
    failed = run(tmp_path, "print('so far'); raise SystemExit(3)")
    assert not failed["ok"] and failed["tail"] == ["so far"]
    late = run(tmp_path, "import time; print('slow', flush=True); time.sleep(60)", 0.5)
    assert not late["ok"] and late["ended"] == "out of time" and late["tail"] == ["slow"] and late["seconds"] < 10
    missing = gpu.run_step(gpu.Step("step", ["no-such-sanitizer"], 5), tmp_path)
    assert not missing["ok"] and "no-such-sanitizer" in missing["ended"]


def test_training_ends_when_it_has_learned(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    code = f"""
import time
with open({str(file)!r}, "w") as file:
    for number, value in enumerate((12.5, 71.0)):
        print('{{"iteration": %d, "segm/AP": %f}}' % (250 * number + 249, value), file=file)
    print('{{"iteration": 5', file=file, flush=True)  # killed in the middle of a line
    time.sleep(60)
"""
    found = run(tmp_path, code, result=file, metric="segm/AP")
    assert found["ok"] and found["ended"] == "learned" and found["seconds"] < 15
    assert found["result"]["history"] == [(249, 12.5), (499, 71.0)]
    assert gpu.summary("learn-x", found) == "segm/AP 71.0 after 500 iterations"


def test_tests_that_are_all_skipped_say_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tests.xml"
    for skipped, ok in ((2, True), (3, False)):
        xml = f'<testsuites><testsuite tests="3" failures="0" errors="0" skipped="{skipped}"/></testsuites>'
        found = run(tmp_path, f"open({str(file)!r}, 'w').write({xml!r})", result=file)
        assert found["ok"] is ok


@pytest.mark.parametrize("dry", [True, False])
def test_every_step_has_a_command_for_its_device(tmp_path: Path, dry: bool) -> None:
    steps = gpu.all_steps(tmp_path, dry, coco=True)
    assert len({step.name for step in steps}) == len(steps)
    words = [word for step in steps for word in step.command]
    assert ("--device=cpu" in words) is dry and ("--device=cuda" in words) is not dry
    # The real configs are read in a dry run too, where there are pictures.
    assert any("coco_2017_train" in word for word in words)
    shapes = [word for step in gpu.all_steps(tmp_path, dry, coco=False) for word in step.command]
    assert not any("coco_2017_train" in word for word in shapes)


def test_the_table_replaces_the_last_one(tmp_path: Path) -> None:
    row = {"shape": "sam/n50", "pass": "fwd", "ms": {"pentamask": 0.02, "eager": 0.05}, "error": {"pentamask": 1e-7}}
    model = {"seconds": {"plain": 0.05, "half": 0.02}, "ratio_to_plain": {"plain": 1.0, "half": 2.5}}
    tests = {"tests": 9, "skipped": 1, "failures": 1, "errors": 0}
    report = {
        "machine": {"card": "A card", "torch": "2", "cuda": "13", "driver": "5"},
        "steps": {
            "ops": {"seconds": 3.0, "ok": False, "ended": "ended", "result": tests},
            "time-ops-float32": {"seconds": 4.0, "ok": True, "ended": "ended", "result": {"rows": [row]}},
            "time-models": {"seconds": 5.0, "ok": True, "ended": "ended", "result": {"models": {"YOLACT": model}}},
        },
    }
    readme = tmp_path / "README.md"
    readme.write_text("before\n" + "old\n".join(gpu.MARKS) + "after\n")
    for _ in range(2):
        gpu.write_table(gpu.make_table(json.loads(json.dumps(report))), readme)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and text.count("A card") == 1
    assert "| ops | 3.0 | NO | 8 tests, 1 failed |" in text
    assert "| sam/n50 | fwd | 20.0 | 2.50 | 1.0e-07 |" in text
    assert "| YOLACT | 50.0 | 2.50 |" in text
    assert all(gpu.README.read_text().count(mark) == 1 for mark in gpu.MARKS)
