"""Collects the reference cases, prints each one's largest error and, with --errors, writes all of them to a file."""

import json
import statistics
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

_ERRORS = pytest.StashKey[dict]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", default=None, help="replay every case folder under this one (default: the test's own)")
    parser.addoption("--device", default="cpu", help="where to replay")
    parser.addoption("--precision", choices=["fp32", "bf16", "fp16"], help="not as recorded; see test_replay.py")
    parser.addoption("--errors", default=None, metavar="FILE", help="write each case's errors there, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ERRORS] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case_path" in metafunc.fixturenames:
        root = Path(metafunc.config.getoption("--cases", default=None) or HERE / "cases").resolve()
        paths = sorted(path.parent for path in root.rglob("case.json"))
        if not paths:
            raise pytest.UsageError(f"no case.json under {root}")
        metafunc.parametrize("case_path", paths, ids=[f"{p.parent.name}/{p.name}" for p in paths])


@pytest.fixture
def record_errors(request: pytest.FixtureRequest):
    """Call with (case name, relative error of each array) to have the largest printed at the end."""

    def record(case: str, errors: dict[str, float]) -> None:
        request.config.stash[_ERRORS][case] = errors

    return record


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    errors = {case: found for case, found in config.stash[_ERRORS].items() if found}
    if errors:
        terminalreporter.section("largest error per reference case, relative to the array's largest value")
        for case, found in errors.items():
            worst = max(found, key=found.__getitem__)
            terminalreporter.line(f"{case:60s} {found[worst]:8.1e}  {worst}")
    if file := config.getoption("--errors", default=None):
        summary = {
            case: {"largest": max(found.values()), "median": statistics.median_low(found.values()), "arrays": found}
            for case, found in errors.items()
        }
        Path(file).write_text(json.dumps(summary, indent=1))
