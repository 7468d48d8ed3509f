"""A moving average of the weights, evaluated beside the model."""

import os
from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pentamask.checkpoint.loader import written_at_once

EMA_FILE = "model_final_ema.pth"


class EMAHook(HookBase):
    """Keeps the exponential moving average of weights and buffers (Polyak averaging, as MODEL_EMA asks for it).

    It is part of every checkpoint. At the end it is written to `model_final_ema.pth`, which MODEL.WEIGHTS takes.
    """

    def __init__(self, model: nn.Module, decay: float, output_dir: str) -> None:
        """
        Args:
            model: wrapped for distributed training or not.
            decay: weight of the past, 0 to 1.
            output_dir: of the training.

        Raises:
            ValueError: another decay.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"MODEL_EMA.DECAY is {decay}; it is at least 0 and less than 1.")
        self._trained = model.module if isinstance(model, DistributedDataParallel) else model
        self._averaged = AveragedModel(self._trained, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self._output_dir = output_dir

    @property
    def model(self) -> nn.Module:
        """The averaged model."""
        return self._averaged.module

    def before_train(self) -> None:
        if self._averaged.n_averaged == 0:  # the weights are loaded by now
            self._averaged.update_parameters(self._trained)

    def after_step(self) -> None:
        self._averaged.update_parameters(self._trained)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter and comm.is_main_process():
            with written_at_once(os.path.join(self._output_dir, EMA_FILE)) as file:
                torch.save({"model": self.model.state_dict()}, file)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, and how many were averaged."""
        return {"model": self.model.state_dict(), "n_averaged": int(self._averaged.n_averaged)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self._averaged.n_averaged.fill_(state["n_averaged"])

    def evaluate_too(self, evaluate: Callable[[nn.Module], dict]) -> dict:
        """The results of the averaged model, with "_EMA" added to the names of the tasks."""
        was_training = self.model.training
        results = evaluate(self.model.eval())
        self.model.train(was_training)
        return {f"{task}_EMA": values for task, values in results.items()}
