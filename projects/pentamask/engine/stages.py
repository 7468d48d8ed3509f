"""The stages of a model's inference, and how long each takes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any
from unittest import mock

import torch
import torchvision
from torch import nn

from pentamask.plugin import declared

# In the order of a model's work; what no module and no function below does is its postprocessing.
STAGES = ("preprocess", "backbone", "neck", "heads", "NMS", "masks", "postprocess")
# Of Detectron2's models; a plugin adds its own by `stages`.
_COMMON = {
    "backbone.bottom_up": "backbone",
    "backbone": "neck",
    "proposal_generator": "heads",
    "roi_heads": "heads",
    "roi_heads.mask_pooler": "masks",
    "roi_heads.mask_head": "masks",
}


def find_stages(model: nn.Module) -> dict[str, str]:
    """The stage of each of the model's modules that begins one, by the module's name."""
    modules = dict(model.named_modules())
    stages = _COMMON | dict(declared(type(model), "stages"))
    if "backbone" in modules and "backbone.bottom_up" not in modules:
        stages["backbone"] = "backbone"
    return {name: stage for name, stage in stages.items() if name in modules}


class _Watch:
    """Adds up seconds by stage; a stage within a stage takes its time from the outer one."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._running: list[str] = []
        self._since = 0.0

    def begin(self, stage: str) -> None:
        self._turn()
        self._running.append(stage)

    def end(self) -> None:
        self._turn()
        self._running.pop()

    def _turn(self) -> None:
        now = clock(self._device)
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, stage: str, function: Callable) -> Callable:
        """`function`, whose calls within a running stage count for `stage`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._running:
                return function(*args, **kwargs)
            self.begin(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        return call


@contextmanager
def stage_times(model: nn.Module) -> Iterator[dict[str, float]]:
    """Seconds of each of `STAGES` of the calls within; a GPU is waited for at every change of stage.

    NMS is Detectron2's `batched_nms`, and methods that the model declares.
    """
    watch, handles = _Watch(next(model.parameters()).device), []
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        if hasattr(model, "preprocess_image"):
            timed = watch.timed("preprocess", model.preprocess_image)  # type: ignore[arg-type]
            stack.enter_context(mock.patch.object(model, "preprocess_image", timed))
        for name, stage in declared(type(model), "stages").items():
            owner, _, method = name.rpartition(".")
            if name not in modules and owner:
                timed = watch.timed(stage, attrgetter(name)(model))
                stack.enter_context(mock.patch.object(attrgetter(owner)(model), method, timed))
        boxes = torchvision.ops.boxes
        stack.enter_context(mock.patch.object(boxes, "batched_nms", watch.timed("NMS", boxes.batched_nms)))
        for name, stage in {"": "postprocess", **find_stages(model)}.items():
            handles.append(
                modules[name].register_forward_pre_hook(lambda *_, stage=stage: watch.begin(stage), prepend=True)
            )
            handles.append(modules[name].register_forward_hook(lambda *_: watch.end()))
        try:
            yield watch.seconds
        finally:
            for handle in handles:
                handle.remove()


def clock(device: torch.device | str) -> float:
    """Seconds of a clock that has waited for what a GPU was asked to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
