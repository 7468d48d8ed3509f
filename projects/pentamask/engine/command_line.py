"""One line for every error of a tool: `NAME: error: ...` and exit status 1; the traceback goes to log.txt."""

import argparse
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch.multiprocessing as mp
from detectron2.utils import comm

from pentamask.checkpoint.loader import CheckpointError
from pentamask.data.checks import DatasetError
from pentamask.engine.checks import BadInput

# What users can mend; the message says how.
_EXPECTED = (BadInput, CheckpointError, DatasetError, OSError, ImportError, FloatingPointError)
# How PyTorch passes on an exception of a data loader's process.
_FROM_WORKER = re.compile(r"Caught (\w+) in .+\nOriginal Traceback")
_LONGEST = 600  # characters of a message that nobody wrote for users
# In most cases all processes meet the same error: the first one says it and ends the others, which wait so long.
_SECONDS_TO_WAIT = 5.0


def add_debug_flag(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    """Give a tool's parser `--debug` and the tool's name; returns it."""
    parser.prog = name
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_config_options(parser: argparse.ArgumentParser, name: str = "opts") -> None:
    """Give a parser what ends a command line, as `opts`: overrides of the config's keys.

    Args:
        name: "opts", or "--opts" for a tool that takes them after this flag.
    """
    parser.add_argument(
        name,
        nargs=argparse.REMAINDER,
        default=[],
        metavar="OPT",
        help="KEY VALUE ... or, for .py files, key=value ...",
    )


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def score(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


@contextmanager
def reported_errors(name: str, *, debug: bool = False) -> Iterator[None]:
    """End the process with one line on stderr and exit status 1 if anything fails within.

    The traceback is added to the file that this process logs to. In the processes of a distributed training it may be
    used inside each, and again around their launch.

    Args:
        name: of the tool.
        debug: also show the traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except mp.ProcessExitedException as error:
        if error.exit_code != 1:  # else that process has said why
            print(f"{name}: error: process {error.error_index} ended: {error}.", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        log_file = _log_traceback(error)
        if comm.get_rank() > 0:
            time.sleep(_SECONDS_TO_WAIT)
        if debug:
            traceback.print_exc()
        print(f"{name}: error: {describe_error(error, log_file)}", file=sys.stderr, flush=True)
        sys.exit(1)


def describe_error(error: Exception, log_file: str | None = None) -> str:
    """What to tell a user: the message of an error that is expected, else also its type and where its traceback is.

    Args:
        error: also one that PyTorch brought from a data loader's process.
        log_file: that has the traceback.
    """
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    from_worker = _FROM_WORKER.match(message)
    if from_worker:
        message = re.split(rf"^(?:\w+\.)*{from_worker[1]}: ", message, flags=re.MULTILINE)[-1].strip()
    if isinstance(error, _EXPECTED) or (isinstance(error, ValueError) and _is_ours(error, from_worker)):
        return message
    message = " ".join(message.split())
    message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ..."
    where = f"the traceback is in {log_file}" if log_file else "--debug shows the traceback"
    return f"{type(error).__name__}: {message} ({where})"


def _is_ours(error: Exception, from_worker: re.Match | None) -> bool:
    """Whether pentamask raised an error itself, so that its message is meant for users."""
    if from_worker:
        frames = re.findall(r'^  File "(.+)", line', str(error), flags=re.MULTILINE)
        return bool(frames) and f"{os.sep}pentamask{os.sep}" in frames[-1]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith("pentamask.")


def _log_traceback(error: Exception) -> str | None:
    """Add the traceback to the newest file that pentamask's logger writes to; returns its name."""
    logger = logging.getLogger("pentamask")
    info = (type(error), error, error.__traceback__)
    record = logger.makeRecord(__name__, logging.ERROR, __file__, 0, "The run ends here.", (), info)
    for handler in reversed(logger.handlers):
        path = getattr(getattr(handler, "stream", None), "name", None)
        if isinstance(path, str) and os.path.isfile(path):
            handler.handle(record)
            return path
    return None
