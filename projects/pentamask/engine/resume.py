"""Hooks that let a killed training continue as if nothing had happened."""

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine import HookBase, TrainerBase, hooks
from detectron2.utils import comm
from torch import nn

from pentamask.checkpoint.files import read_checkpoint
from pentamask.checkpoint.loader import BEST_PREFIX, PentamaskCheckpointer, written_at_once
from pentamask.data.loader import ResumableLoader, seed_everything
from pentamask.engine.early_stopping import EarlyStopping
from pentamask.engine.ema import EMAHook

_SMOOTHING_WINDOW = 20  # of Detectron2's writers, in iterations


class RunState(HookBase):
    """Keeps what Detectron2's checkpoints leave out: data order, random numbers, buffers, smoothed metrics.

    Random numbers are not stored: every iteration is seeded by the run's seed, the rank and its number, every sample
    by its own (see `ResumableLoader`).
    """

    def __init__(self, model: nn.Module, loader: Any) -> None:
        """
        Args:
            model: whose buffers outside its state dict are kept; wrapped for distributed training or not.
            loader: of the training; one that is not a `ResumableLoader` starts anew.
        """
        self._model, self._loader = model, loader
        self._seed = comm.shared_random_seed()
        self._history: dict[str, list[tuple[float, int]]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Numbers, tensors and containers of them only."""
        storage = getattr(self.trainer, "storage", None)  # there is none before the training
        histories = {} if storage is None else storage.histories()
        state = {
            "seed": self._seed,
            "buffers": {name: buffer.detach().cpu().clone() for name, buffer in self._other_buffers()},
            "history": {name: history.values()[-_SMOOTHING_WINDOW:] for name, history in histories.items()},
        }
        if isinstance(self._loader, ResumableLoader):
            state["loader"] = self._loader.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._seed, self._history = state["seed"], state["history"]
        for name, buffer in self._other_buffers():
            if name in state["buffers"]:
                buffer.copy_(state["buffers"][name])
        if isinstance(self._loader, ResumableLoader) and "loader" in state:
            self._loader.load_state_dict(state["loader"])

    def before_train(self) -> None:
        if isinstance(self._loader, ResumableLoader):
            self._loader.start_batch = self.trainer.start_iter
        for name, values in self._history.items():
            for value, iteration in values:
                self.trainer.storage.histories()[name].update(value, iteration)

    def before_step(self) -> None:
        seed_everything(self._seed, comm.get_rank(), self.trainer.iter)

    def _other_buffers(self) -> list[tuple[str, torch.Tensor]]:
        """Those that the model does not save, as running means that the authors' files do not have."""
        saved = self._model.state_dict().keys()
        return [(name, buffer) for name, buffer in self._model.named_buffers() if name not in saved]


def add_resume_hooks(
    built: list[HookBase],
    model: nn.Module,
    loader: Any,
    checkpointer: PentamaskCheckpointer,
    *,
    max_to_keep: int,
    best_metric: str,
    early_stopping: tuple[str, int],
    ema: EMAHook | None,
    evaluate: Callable[[], dict],
    evaluate_last: Callable[[], dict] | None = None,
) -> list[HookBase]:
    """Detectron2's hooks of a training, exchanged and added to so that it can be resumed exactly.

    Args:
        built: with Detectron2's `PeriodicCheckpointer`, in the main process, and `EvalHook`.
        model, loader: see `RunState`.
        checkpointer: of the training.
        max_to_keep: newest checkpoints to keep; 0 keeps all.
        best_metric: metric whose best checkpoint is also kept, such as "segm/AP"; "" for none.
        early_stopping: metric, "" for none, and patience, see `EarlyStopping`.
        ema: the average of the weights, if there is to be one.
        evaluate: what `EvalHook` calls.
        evaluate_last: another evaluation, at the end only; its results are written as well.
    """
    result: list[HookBase] = [RunState(model, loader), *([ema] if ema is not None else [])]
    for hook in built:
        if isinstance(hook, hooks.EvalHook):
            hook = hooks.EvalHook(hook._period, evaluate)
        if isinstance(hook, hooks.PeriodicCheckpointer):
            hook = PeriodicCheckpointer(checkpointer, hook.period, max_to_keep=max_to_keep or None)
        result.append(hook)
        if isinstance(hook, hooks.EvalHook) and best_metric and comm.is_main_process():
            result.append(BestCheckpointer(hook._period, checkpointer, best_metric, file_prefix=BEST_PREFIX))
        if isinstance(hook, hooks.EvalHook) and early_stopping[0]:
            result.append(EarlyStopping(hook._period, checkpointer, *early_stopping))
        if isinstance(hook, hooks.EvalHook) and evaluate_last is not None:
            result.append(hooks.EvalHook(0, evaluate_last))
    return result


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's, which counts files from before a resume among `max_to_keep`, and completes a finished run."""

    checkpointer: PentamaskCheckpointer

    def before_train(self) -> None:
        super().before_train()
        final = os.path.join(self.checkpointer.save_dir, f"{self.file_prefix}_final.pth")
        if self.max_to_keep is not None and self.trainer.start_iter > 0:
            self.recent_checkpoints = [file for file in self.checkpointer.numbered_files() if file != final]
        resumed_from = self.checkpointer.resumed_from
        if self.trainer.start_iter >= self.trainer.max_iter and resumed_from not in (None, final):
            # Nothing is left to train, but the final file was not written or is broken.
            with open(resumed_from, "rb") as source, written_at_once(final) as file:
                shutil.copyfileobj(source, file)
            self.checkpointer.tag_last_checkpoint(os.path.basename(final))


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's, which also keeps the best model from before a resume; its file has its value as "best_metric"."""

    def before_train(self) -> None:
        file = os.path.join(self._checkpointer.save_dir, f"{BEST_PREFIX}.pth")
        if self.trainer.start_iter > 0 and os.path.isfile(file):
            checkpoint = read_checkpoint(file)
            self.best_metric, self.best_iter = checkpoint.get("best_metric"), checkpoint.get("iteration")

    def _best_checking(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:  # it was there in the rehearsal
            self._logger.warning("This evaluation gives no %s, by which the best model is chosen.", self._val_metric)
            return
        value, iteration = latest
        if (self.best_metric is None or self._compare(value, self.best_metric)) and self._update_best(value, iteration):
            self._checkpointer.save(BEST_PREFIX, iteration=iteration, best_metric=value)


def complete_last_line(path: str) -> None:
    """End a text file with a newline if a killed process left half a line, so that what is appended can be read."""
    if not os.path.isfile(path) or os.path.getsize(path) == 0:
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def resume_or_load(trainer: TrainerBase, checkpointer: PentamaskCheckpointer, weights: str, *, resume: bool) -> int:
    """Resume in the checkpointer's folder if that is asked for and possible, otherwise load `weights`.

    Returns:
        The iteration to start with.
    """
    older = checkpointer.numbered_files()
    checkpointer.resume_or_load(weights, resume=resume)
    if checkpointer.resumed_from is not None:
        return trainer.iter + 1
    if older:
        logging.getLogger(__name__).warning(
            "%s is of an earlier training in this folder, and this one overwrites its files; --resume continues it.",
            older[-1],
        )
    return 0
