"""One training step: in mixed precision on any device, and skipped when a loss is not finite."""

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils import comm
from torch import Tensor, nn

from pentamask.common import check_choice

BATCH_FILE = "nonfinite_batch.pth"
_PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
_logger = logging.getLogger(__name__)


def find_precision(name: str, device: str) -> torch.dtype | None:
    """The type that SOLVER.AMP.PRECISION (LazyConfig: train.amp.precision) names; None if the device lacks it.

    The CPU has "bf16" only; asking it for "fp16" switches mixed precision off, with a line of log.
    """
    check_choice("SOLVER.AMP.PRECISION", name, _PRECISIONS)
    if name == "fp16" and torch.device(device).type == "cpu":
        _logger.info('Mixed precision is off: a CPU has SOLVER.AMP.PRECISION "bf16" only.')
        return None
    return _PRECISIONS[name]


def mixed_precision(enabled: bool, name: str, device: str) -> torch.autocast:
    """The context of an evaluation, in mixed precision if `enabled` and the device has the type `name`."""
    precision = find_precision(name, device) if enabled else None
    return torch.autocast(torch.device(device).type, precision, enabled=precision is not None)


class StepTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer and AMPTrainer in one, for every device and both 16 bit types."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        precision: torch.dtype | None = None,
        skip_nonfinite: int = 0,
        output_dir: str = "",
    ) -> None:
        """
        Args:
            model, data_loader, optimizer: see `SimpleTrainer`.
            precision: what autocast computes in where it may; None for full precision. float16 scales the loss.
            skip_nonfinite: how many steps in a row with a loss that is not finite are left out before the training
                ends.
            output_dir: where the first such batch is saved, with the weights, for `pentamask.tools.replay_batch`; ""
                does not save it.
        """
        super().__init__(model, data_loader, optimizer)
        self.precision, self.skip_nonfinite, self.output_dir = precision, skip_nonfinite, output_dir
        self.device = next(model.parameters()).device
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=precision is torch.float16)
        self._num_skipped = 0  # in a row

    def run_step(self) -> None:
        """One iteration.

        Raises:
            FloatingPointError: a loss is not finite, and too many were left out already.
        """
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        try:
            with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
                losses = self.model(batch)
        except FloatingPointError as error:  # found within the model, which also ends the other processes
            if comm.get_world_size() > 1:
                raise
            losses = {str(error): torch.tensor(float("nan"), device=self.device)}
        total = sum(losses.values())
        if not self._all_finite(total):
            self._leave_out(batch, losses, data_time)
            return
        self._num_skipped = 0
        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _all_finite(self, total: Tensor) -> bool:
        """Whether the sums of the losses are finite in all processes."""
        finite = total.detach().isfinite().float()
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        return bool(finite)

    def _leave_out(self, batch: list[dict], losses: dict[str, Tensor], data_time: float) -> None:
        saved = ""
        if self._num_skipped == 0 and self.output_dir and comm.is_main_process():
            saved = save_batch(os.path.join(self.output_dir, BATCH_FILE), self.model, batch, self.iter)
        self._num_skipped += 1
        if self._num_skipped > self.skip_nonfinite:
            self._write_metrics(losses, data_time)  # raises in the main process
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={self.iter}!")
        broken = ", ".join(name for name, loss in losses.items() if not loss.isfinite()) or "one of another process"
        _logger.warning(
            "Iteration %d is left out, %d of at most %d in a row: not finite is %s. Images: %s.%s",
            self.iter,
            self._num_skipped,
            self.skip_nonfinite,
            broken,
            ", ".join(str(x.get("file_name", "?")) for x in batch),
            saved and f" The batch is in {saved}.",
        )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict(), "num_skipped": self._num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._num_skipped = state_dict.get("num_skipped", 0)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def save_batch(path: str, model: nn.Module, batch: list[dict], iteration: int) -> str:
    """Save a training batch and the weights that it met, in tensors and containers of them; returns `path`."""
    weights = {name.removeprefix("module."): value for name, value in model.state_dict().items()}
    torch.save({"model": weights, "iteration": iteration, "batch": [_pack(x) for x in batch]}, path)
    return path


def load_batch(saved: list[dict]) -> list[dict]:
    """The training batch that `save_batch` stored under "batch"."""
    return [_unpack(x) for x in saved]


# Class of Detectron2's structures, how its content is taken out, and how it is put in again.
_STRUCTURES: dict[str, tuple[type, Callable, Callable]] = {
    "boxes": (Boxes, lambda x: x.tensor, Boxes),
    "bitmasks": (BitMasks, lambda x: x.tensor, BitMasks),
    "polygons": (
        PolygonMasks,
        lambda x: [[torch.as_tensor(part) for part in polygons] for polygons in x.polygons],
        lambda x: PolygonMasks([[part.numpy() for part in polygons] for polygons in x]),
    ),
}


def _pack(value: Any) -> Any:
    if isinstance(value, Instances):
        return {"image_size": list(value.image_size), "fields": {k: _pack(v) for k, v in value.get_fields().items()}}
    if isinstance(value, dict):
        return {key: _pack(item) for key, item in value.items()}
    for kind, (structure, take_out, _) in _STRUCTURES.items():
        if isinstance(value, structure):
            return {"structure": kind, "content": take_out(value)}
    return value if isinstance(value, (Tensor, str, int, float, bool, list, tuple, type(None))) else str(value)


def _unpack(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value.keys() == {"image_size", "fields"}:
        fields = {name: _unpack(field) for name, field in value["fields"].items()}
        return Instances(tuple(value["image_size"]), **fields)
    if value.keys() == {"structure", "content"}:
        return _STRUCTURES[value["structure"]][2](value["content"])
    return {key: _unpack(item) for key, item in value.items()}
