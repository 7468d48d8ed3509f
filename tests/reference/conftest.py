"""Collects the reference cases and prints each one's largest error."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

_ERRORS = pytest.StashKey[dict]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", default=None, help="replay every case folder under this one (default: the test's own)")


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
def record_error(request: pytest.FixtureRequest):
    """Call with (case name, relative error, array name) to have it printed at the end."""

    def record(case: str, error: float, name: str) -> None:
        request.config.stash[_ERRORS][case] = (error, name)

    return record


def pytest_terminal_summary(terminalreporter) -> None:
    errors = terminalreporter.config.stash[_ERRORS]
    if errors:
        terminalreporter.section("largest error per reference case, relative to the array's largest value")
        for case, (error, name) in errors.items():
            terminalreporter.line(f"{case:60s} {error:8.1e}  {name}")
