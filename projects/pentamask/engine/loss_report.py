"""Reports what was being trained on when a loss stopped being finite."""

from typing import Any

import torch
from torch import nn


class LossReport:
    """Remembers the current training batch of a model, to explain what became infinite or NaN."""

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: Detectron2 model; in training it maps a list of input dicts to a dict of scalar losses.
        """
        self._files: list[str] = []
        self._losses: dict[str, torch.Tensor] = {}
        # Before the forward pass, which may be what fails.
        model.register_forward_pre_hook(self._remember_batch)
        model.register_forward_hook(self._remember_losses)

    def _remember_batch(self, model: nn.Module, inputs: tuple) -> None:
        if model.training and isinstance(inputs[0], list):
            self._files = [str(x.get("file_name", "?")) for x in inputs[0] if isinstance(x, dict)]
            self._losses = {}

    def _remember_losses(self, model: nn.Module, inputs: tuple, losses: Any) -> None:
        if model.training:
            self._losses = {name: loss.detach() for name, loss in losses.items()}

    def explain(self, error: FloatingPointError, iteration: int, lr: float) -> FloatingPointError:
        """The error to raise: what failed, the learning rate `lr`, the images, and what usually helps.

        Args:
            error: that the iteration ended with. Its message stands where the losses were not computed.
            iteration: its number.
            lr: learning rate.
        """
        values = {name: loss.item() for name, loss in self._losses.items()}
        broken = [name for name, value in values.items() if not torch.isfinite(torch.tensor(value))]
        if values:
            what = f"{' and '.join(broken) or 'The sum of the losses'} became infinite or NaN"
            listed = f" Losses: {', '.join(f'{name} {value:.4g}' for name, value in values.items())}."
        else:
            what, listed = f"The model failed before there were losses ({str(error).rstrip('.')})", ""
        return FloatingPointError(
            f"{what} at iteration {iteration}, with learning rate {lr:.4g}.{listed} "
            f"Images of this batch: {', '.join(self._files)}. Lower SOLVER.BASE_LR (LazyConfig: "
            "optimizer.lr; it belongs to the batch size), lengthen SOLVER.WARMUP_ITERS (lr_multiplier.warmup_length) "
            "or set SOLVER.CLIP_GRADIENTS.ENABLED True; if it is always the same image, "
            "look at its annotations."
        )
