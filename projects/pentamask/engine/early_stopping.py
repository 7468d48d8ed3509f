"""Ends a training whose evaluations have stopped getting better."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.engine.checks import BadInput


class _TrainingEnds(BaseException):
    """Leaves Detectron2's loop, which logs an `Exception` as a fault; what follows a training still runs."""


@contextmanager
def early_ending() -> Iterator[None]:
    """Around `TrainerBase.train`: an `EarlyStopping` may end it."""
    with suppress(_TrainingEnds):
        yield


class EarlyStopping(HookBase):
    """Ends the training after some evaluations without a new best value; to be registered after `EvalHook`.

    What is done at the end of a training, as the last checkpoint and evaluation, is done then.
    """

    def __init__(self, period: int, checkpointer: PentamaskCheckpointer, metric: str, patience: int) -> None:
        """
        Args:
            period: of the evaluations, in iterations.
            checkpointer: of the training, for the last checkpoint.
            metric: whose largest value is the best, such as "segm/AP".
            patience: evaluations in a row that may be no better than the best.
        """
        self._period, self._checkpointer, self._metric, self._patience = period, checkpointer, metric, patience
        self._best = float("-inf")
        self._num_worse = 0

    def state_dict(self) -> dict[str, Any]:
        """For resuming."""
        return {"best": self._best, "num_worse": self._num_worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._best, self._num_worse = state["best"], state["num_worse"]

    def before_train(self) -> None:
        if self._num_worse >= self._patience:  # what is resumed had ended
            self.trainer.max_iter = self.trainer.start_iter
            raise _TrainingEnds

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period != 0 or done >= self.trainer.max_iter:
            return
        # Only the main process evaluates.
        ends = comm.is_main_process() and self._judge(self.trainer.storage.latest().get(self._metric))
        if any(comm.all_gather(ends)):
            logging.getLogger(__name__).info(
                "The training ends after %d iterations: %s has not been better than %.4g for %d evaluations.",
                *(done, self._metric, self._best, self._patience),
            )
            self.trainer.max_iter = done
            self._checkpointer.save("model_final", iteration=self.trainer.iter)
            raise _TrainingEnds
        self._save_again()

    def _save_again(self) -> None:
        """A checkpoint of this iteration was saved before the evaluation: it has to know the outcome, for resuming."""
        name = f"model_{self.trainer.iter:07d}"
        if self._checkpointer.has_checkpoint() and name in self._checkpointer.get_checkpoint_file():
            self._checkpointer.save(name, iteration=self.trainer.iter)

    def _judge(self, latest: tuple[float, int] | None) -> bool:
        """Whether to end, from the metric's value and its iteration."""
        if latest is not None and latest[0] > self._best:
            self._best, self._num_worse = latest[0], 0
        else:
            self._num_worse += 1
        return self._num_worse >= self._patience


def check_early_stopping(keys: tuple[str, str], metric: str, period: int, patience: int) -> None:
    """Raise `BadInput` if `metric` is to be watched but is never known before the end.

    Args:
        keys: of early stopping and of the period of evaluations, in the config.
        metric: "" watches nothing.
        period, patience: their values.
    """
    if metric and period < 1:
        raise BadInput(f"{keys[0]} watches {metric!r}, which needs evaluations during training: set {keys[1]}.")
    if metric and patience < 1:
        raise BadInput(f"{keys[0]} has a patience of {patience} evaluations: give 1 or more.")
