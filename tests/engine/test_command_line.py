"""Errors of tools in one line, with their tracebacks in log.txt."""

import argparse
import logging
import os

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.utils.data import DataLoader, Dataset

from pentamask.data.pictures import open_picture
from pentamask.engine import command_line
from pentamask.engine.checks import BadInput
from pentamask.engine.command_line import add_debug_flag, describe_error, reported_errors


@pytest.fixture(autouse=True)
def _no_log_files(monkeypatch):
    """Those of other tests are still open."""
    logger = logging.getLogger("pentamask")
    level, propagate = logger.level, logger.propagate
    monkeypatch.setattr(logger, "handlers", [])
    yield
    logger.setLevel(level)
    logger.propagate = propagate


def _fail(error: BaseException, capsys, **options) -> str:
    with pytest.raises(SystemExit) as exit, reported_errors("tool", **options):
        raise error
    assert exit.value.code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    return capsys.readouterr().err


def test_errors_end_in_one_line(capsys):
    assert _fail(BadInput("KEY is wrong."), capsys) == "tool: error: KEY is wrong.\n"
    assert _fail(OSError("a.jpg is broken"), capsys) == "tool: error: a.jpg is broken\n"
    assert _fail(KeyError(51), capsys) == "tool: error: KeyError: 51 (--debug shows the traceback)\n"
    assert _fail(RuntimeError("two\nlines"), capsys).startswith("tool: error: RuntimeError: two lines (")
    assert _fail(KeyboardInterrupt(), capsys) == "tool: interrupted\n"


def test_debug_shows_the_traceback(capsys):
    shown = _fail(BadInput("wrong"), capsys, debug=True)
    assert shown.startswith("Traceback") and shown.endswith("\ntool: error: wrong\n")
    parser = add_debug_flag(argparse.ArgumentParser(), "tool")
    assert parser.prog == "tool" and parser.parse_args(["--debug"]).debug


def test_the_traceback_is_in_the_log_file(capsys, tmp_path):
    setup_logger(str(tmp_path), name="pentamask", configure_stdout=False)
    shown = _fail(KeyError("x"), capsys)
    assert shown == f"tool: error: KeyError: x (the traceback is in {tmp_path / 'log.txt'})\n"
    text = (tmp_path / "log.txt").read_text()
    assert "Traceback (most recent call last)" in text and "raise error" in text


class _Broken(Dataset):
    def __init__(self, fail) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        self.fail()


def _missing_key() -> None:
    {}["iscrowd"]


def _bad_input() -> None:
    raise BadInput("two\nlines")


def _no_picture() -> None:
    open_picture("no/such.jpg")


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (_bad_input, "two\nlines"),
        (_missing_key, "KeyError: 'iscrowd' (--debug shows the traceback)"),
        (_no_picture, "Cannot read the image file no/such.jpg: [Errno 2] No such file or directory: 'no/such.jpg'. "),
    ],
)
def test_errors_of_data_loader_workers(fail, expected):
    with pytest.raises(Exception) as error:
        next(iter(DataLoader(_Broken(fail), num_workers=1)))
    assert "Original Traceback" in str(error.value)
    assert describe_error(error.value).startswith(expected)


def test_a_value_error_of_ours_is_meant_for_users():
    for value, expected in ((-1, "KEY is -1; choose 1."), (None, "ValueError: ")):
        with pytest.raises(ValueError) as error:
            _choose(value)
        assert describe_error(error.value).startswith(expected)


def _choose(value: int | None) -> None:
    from pentamask.common import check_choice

    if value is None:
        torch.zeros(1).numpy().reshape(2)
    check_choice("KEY", value, [1])


def test_other_processes_wait_for_the_first_to_speak(capsys, monkeypatch):
    slept = []
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    monkeypatch.setattr(command_line.time, "sleep", slept.append)
    assert _fail(BadInput("wrong"), capsys) == "tool: error: wrong\n"
    assert slept == [5.0]


def _worker(rank: int, how: str) -> None:
    with reported_errors("tool"):
        if how == "killed":
            os.kill(os.getpid(), 9)
        raise BadInput("said by the process")


@pytest.mark.parametrize(("how", "lines"), [("error", 1), ("killed", 1)])
def test_processes_that_end(capfd, how, lines):
    with pytest.raises(SystemExit) as exit, reported_errors("tool"):
        torch.multiprocessing.start_processes(_worker, (how,), nprocs=1, start_method="fork")
    shown = capfd.readouterr().err
    assert exit.value.code == 1 and shown.count("tool: error: ") == lines and "Traceback" not in shown
    assert ("SIGKILL" if how == "killed" else "said by the process") in shown
