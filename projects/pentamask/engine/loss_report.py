"""Says what was going on when a loss stopped being finite."""

from typing import Any

import torch
from torch import nn


class LossReport:
    """Remembers the last training batch of a model, to explain a loss that became infinite or NaN."""

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: Detectron2 model; in training it maps a list of input dicts to a dict of scalar losses.
        """
        self._files: list[str] = []
        self._losses: dict[str, torch.Tensor] = {}
        model.register_forward_hook(self._remember)

    def _remember(self, model: nn.Module, inputs: tuple, losses: Any) -> None:
        if model.training:
            self._files = [str(x.get("file_name", "?")) for x in inputs[0]]
            self._losses = {name: loss.detach() for name, loss in losses.items()}

    def explain(self, iteration: int, lr: float) -> FloatingPointError:
        """The error to raise: the losses, the learning rate `lr`, the images, and what usually helps."""
        values = {name: loss.item() for name, loss in self._losses.items()}
        broken = [name for name, value in values.items() if not torch.isfinite(torch.tensor(value))]
        return FloatingPointError(
            f"{' and '.join(broken) or 'The sum of the losses'} became infinite or NaN at iteration {iteration}, with "
            f"learning rate {lr:.4g}. Losses: {', '.join(f'{name} {value:.4g}' for name, value in values.items())}. "
            f"Images of this batch: {', '.join(self._files)}. Lower SOLVER.BASE_LR (LazyConfig: "
            "optimizer.lr; it belongs to the batch size), lengthen SOLVER.WARMUP_ITERS (lr_multiplier.warmup_length) "
            "or set SOLVER.CLIP_GRADIENTS.ENABLED True; if it is always the same image, "
            "look at its annotations."
        )
