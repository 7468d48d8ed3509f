"""Detectron2's checkpointer for files from anywhere, and for trainings that may be killed at any moment."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import nn

from pentamask.checkpoint.files import read_checkpoint
from pentamask.checkpoint.key_map import PARTIAL_HINT, accept_partial_weights, refuse_nonfinite, sample

_logger = logging.getLogger(__name__)
_TEMPORARY = ".writing"
_OF_A_TRAINING = re.compile(r"_(\d+|final)\.pth$")
# The best checkpoint by some metric is not where a training goes on.
BEST_PREFIX = "model_best"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names it and says why."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no such checkpoint, or it cannot be downloaded."""


class PentamaskCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` for files from anywhere: nothing in a file is executed, and errors name the file.

    Reads `.pkl` with `load_pickle`, `.safetensors`, and all others as torch's with `load_torch`. The weights may be
    under "model", under "state_dict", or be the whole file. Files are written completely or not at all, and a training
    resumes from the newest file that is whole. A model in evaluation mode is filled completely, and from no file with
    more than that. Everything else is Detectron2's: `?matching_heuristics=True`, Caffe2 names, and the report of
    missing, unused and misshaped entries.

    Attributes:
        resumed_from: the file that `resume_or_load` resumed from, None if it did not.
    """

    resumed_from: str | None = None
    _parsed_url_during_load: Any
    _checked: tuple[str, dict[str, Any]] | None = None  # a file that was read already, to save reading it again

    def __init__(self, model: nn.Module, save_dir: str = "", *, partial: bool = False, **kwargs: Any) -> None:
        """
        Args:
            model, save_dir, kwargs: as for `DetectionCheckpointer`.
            partial: load what fits of any file into any model; what does not is a warning.
        """
        super().__init__(model, save_dir, **kwargs)
        self._partial = partial

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load `path` (a file or an address that Detectron2 knows; "" loads nothing) into the model.

        Raises:
            CheckpointNotFoundError: the main process sees no such file.
            CheckpointError: the file cannot be read safely, or belongs to another model.
        """
        if path:
            path = _fetch_with_query(path)
            seen = comm.all_gather(_is_there(path))
            if not seen[0]:
                _check_exists(path)
            if not all(seen):
                return self._load_in_main_process(path, *args, **kwargs)
        return self._load(path, *args, **kwargs)

    def _load_in_main_process(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file that not all processes see, and send the weights to the others."""
        rest = self._load(path, *args, **kwargs) if comm.is_main_process() else {}
        for weight in self.model.state_dict().values():
            torch.distributed.broadcast(weight, src=0)
        return rest

    def _load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self._parsed_url_during_load = None  # left behind by a load that failed
        try:
            return super().load(path, *args, **kwargs)
        except (ValueError, ImportError) as error:
            message = str(error)
            raise CheckpointError(message if path in message else f"{path}: {message}") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        checked, self._checked = self._checked, None
        checkpoint = checked[1] if checked is not None and checked[0] == filename else read_checkpoint(filename)
        queries = parse_qs(self._parsed_url_during_load.query)
        if queries.pop("matching_heuristics", None) == ["True"]:
            checkpoint["matching_heuristics"] = True
        if queries:
            raise ValueError(
                f"{self._parsed_url_during_load.geturl()}: ?{', '.join(queries)} has no meaning for a file."
            )
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        self._convert_ndarray_to_tensor(checkpoint["model"])
        refuse_nonfinite(checkpoint["model"])
        try:
            with accept_partial_weights(self._partial):
                incompatible = super()._load_model(checkpoint)
        except (RuntimeError, LookupError, TypeError, AttributeError, AssertionError) as error:
            # Detectron2's matching of names, or torch, met something that it does not expect.
            message = " ".join(str(error).split())
            raise ValueError(f"its weights cannot be put into the model: {type(error).__name__}: {message}") from error
        if not (self.model.training or self._partial):
            _refuse_incomplete(incompatible)
        return incompatible

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `name`.pth, with the states of everything that is checkpointed and with `kwargs`, completely or not.

        Raises:
            CheckpointError: it cannot be written, as on a full disk; older files are as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: checkpointed.state_dict() for key, checkpointed in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with written_at_once(path) as file:
            torch.save({"model": self.model.state_dict(), **states, **kwargs}, file)
        if not name.startswith(BEST_PREFIX):
            self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the last checkpoint into the file "last_checkpoint"; raises as `save`."""
        with written_at_once(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume from the newest whole checkpoint in the folder if asked for and if there is one, else load `path`.

        Raises:
            CheckpointError: as `load`; or there are checkpoints, but the training cannot go on from any of them.
        """
        self.resumed_from = comm.all_gather(self._find_resumable() if resume and comm.is_main_process() else None)[0]
        if self.resumed_from is None:
            return self.load(path, checkpointables=[])
        if not os.path.isfile(self.resumed_from):
            raise CheckpointError(f"{self.resumed_from}: process {comm.get_rank()} cannot see this file.")
        return self.load(self.resumed_from)

    def numbered_files(self) -> list[str]:
        """The checkpoints of a training in the folder, oldest first, without the best one."""
        if not self.save_dir or not PathManager.isdir(self.save_dir):
            return []
        names = [os.path.basename(file) for file in self.get_all_checkpoint_files()]
        names = [name for name in names if _OF_A_TRAINING.search(name)]
        return [os.path.join(self.save_dir, name) for name in sorted(names, key=self._age)]

    def _age(self, name: str) -> tuple[float, float]:
        number = re.search(r"_(\d+)\.pth$", name)
        iteration = float(number[1]) if number else float("inf")
        return iteration, os.path.getmtime(os.path.join(self.save_dir, name))

    def _find_resumable(self) -> str | None:
        """The newest file that is whole, of which the unfit newer ones are reported; None if there are no files."""
        files = self._resume_order()
        problems: list[str] = []
        for file in files:
            problem = self._problem_of(file)
            if problem is None:
                if problems:
                    _logger.warning("Resuming from %s, because %s.", file, "; ".join(problems))
                return file
            problems.append(problem)
        if problems:
            raise CheckpointError(
                f"Cannot resume in {self.save_dir}: {'; '.join(problems)}. Start anew without --resume, with "
                "MODEL.WEIGHTS (LazyConfig: train.init_checkpoint) for the weights of one of them."
            )
        return None

    def _resume_order(self) -> list[str]:
        """Newest first; before them the file that "last_checkpoint" names, unless a newer one was not noted."""
        files = self.numbered_files()[::-1]
        tag = os.path.join(self.save_dir, "last_checkpoint")
        tagged = self.get_checkpoint_file()
        if tagged in files:
            if os.path.getmtime(tag) >= os.path.getmtime(files[0]):
                files.remove(tagged)
                files.insert(0, tagged)
        elif files:
            state = "names a file that is not there" if tagged and tagged != self.save_dir + os.sep else "is empty"
            state = state if os.path.exists(tag) else "is missing"
            _logger.warning("%s %s: looking for the newest checkpoint instead.", tag, state)
        return files

    def _problem_of(self, file: str) -> str | None:
        """Why a training cannot go on from `file`; None if it can."""
        try:
            checkpoint = read_checkpoint(file)
            refuse_nonfinite(checkpoint["model"])
        except (ValueError, OSError) as error:
            message = str(error).rstrip(".")
            return message if file in message else f"{file}: {message}"
        lacking = [key for key in self.checkpointables if key not in checkpoint]
        if lacking:
            return f"{file} has weights, but no state of the {' or '.join(lacking)}"
        for key, checkpointed in self.checkpointables.items():
            ours, theirs = _optimizer_settings(checkpointed.state_dict()), _optimizer_settings(checkpoint[key])
            if ours != theirs:
                return f"{file} was saved with another optimizer or another grouping of the parameters"
        self._checked = file, checkpoint
        return None


def _refuse_incomplete(incompatible: Any) -> None:
    """Raise `ValueError` with what Detectron2 only warns of."""
    misshaped = [f"{name} {theirs} instead of {ours}" for name, theirs, ours in incompatible.incorrect_shapes]
    findings = {
        "missing": incompatible.missing_keys,
        "unused": incompatible.unexpected_keys,
        "of another shape": misshaped,
    }
    if any(findings.values()):
        report = "; ".join(f"{title}: {sample(names)}" for title, names in findings.items() if names)
        raise ValueError(
            f"The checkpoint does not fill the model: {report}. Check that MODEL.WEIGHTS and the config file name the "
            f"same model. {PARTIAL_HINT}"
        )


def _optimizer_settings(state: Any) -> list[tuple[int, bool, bool]]:
    """Of each parameter group in the optimizers' states within `state`: its size, and what tells SGD from Adam.

    The other settings differ between versions of torch.
    """
    if not isinstance(state, dict):
        return []
    if "param_groups" in state:
        return [(len(group["params"]), "momentum" in group, "betas" in group) for group in state["param_groups"]]
    return [settings for key in sorted(state, key=str) for settings in _optimizer_settings(state[key])]


@contextlib.contextmanager
def written_at_once(path: str) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of `path` when everything is on the disk.

    Raises:
        CheckpointError: it cannot be written.
    """
    if "://" in path:  # not a disk of ours
        with PathManager.open(path, "wb") as file:
            yield file
        return
    temporary = path + _TEMPORARY
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        if os.path.exists(temporary):
            os.remove(temporary)
        raise CheckpointError(f"Cannot write {path}: {error}. Older checkpoints are as they were.") from error


def load_completely(model: nn.Module, path: str) -> None:
    """Load `path` into `model`, where training from a backbone or with other classes is not meant.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: the file cannot be read safely, belongs to another model, lacks an entry of `model`, or has
            one that is not its.
    """
    with inference_context(model):
        PentamaskCheckpointer(model).load(path)


def _fetch_with_query(path: str) -> str:
    """`path`, or for an address with a query, such as Dropbox's "?dl=1", the local copy of what it names.

    Detectron2's checkpointer takes the query away before it downloads, and then refuses it.
    """
    url = urlparse(path)
    queries = parse_qsl(url.query)
    query = urlencode([item for item in queries if item[0] != "matching_heuristics"])
    if url.scheme not in ("http", "https") or not query:
        return path
    address = url._replace(query=query).geturl()
    try:
        downloaded = PathManager.get_local_path(address)
    except OSError as error:
        raise CheckpointNotFoundError(f"MODEL.WEIGHTS names {path!r}, which cannot be fetched: {error}.") from error
    # Under a name without "?", but not the one that the address without its query would have.
    local = os.path.join(os.path.dirname(downloaded), f"{query}_{os.path.basename(url.path)}")
    with contextlib.suppress(FileExistsError):
        os.link(downloaded, local)
    return local + ("?matching_heuristics=True" if ("matching_heuristics", "True") in queries else "")


def _is_there(path: str) -> bool:
    try:
        _check_exists(path)
    except CheckpointNotFoundError:
        return False
    return True


def _check_exists(path: str) -> None:
    """Raise `CheckpointNotFoundError` if `path`, less its query, is not there or cannot be downloaded."""
    url = urlparse(path)._replace(query="").geturl()
    hint = "Give the path or address of a checkpoint, or '' to start from random weights."
    try:
        found = PathManager.isfile(PathManager.get_local_path(url))
    except OSError as error:
        message = f"MODEL.WEIGHTS names {path!r}, which cannot be fetched: {error}. {hint}"
        raise CheckpointNotFoundError(message) from error
    if not found:
        raise CheckpointNotFoundError(f"MODEL.WEIGHTS names {path!r}, which is not a file. {hint}")
