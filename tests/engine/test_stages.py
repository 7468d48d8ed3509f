"""The time of a call falls apart into stages, without counting any of it twice."""

import time
from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import batched_nms
from torch import nn

from pentamask.engine.stages import clock, find_stages, stage_times


class Sleep(nn.Module):
    def __init__(self, seconds: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.seconds, self.inner = seconds, inner
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self) -> None:
        time.sleep(self.seconds)
        if self.inner is not None:
            self.inner()


class Model(nn.Module):
    stages = {"backbone.inner": "neck", "other": "masks", "helper.sort": "NMS"}

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.other = Sleep(0.02, Sleep(0.03)), Sleep(0.05)
        self.helper = SimpleNamespace(sort=lambda: time.sleep(0.02))  # no module

    def preprocess_image(self) -> None:
        time.sleep(0.01)

    def forward(self) -> None:
        self.preprocess_image()
        self.backbone()
        self.other()
        self.helper.sort()
        batched_nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), torch.zeros(1), 0.5)
        time.sleep(0.04)


def test_stage_times() -> None:
    model = Model()
    assert find_stages(model) == {"backbone": "backbone", "backbone.inner": "neck", "other": "masks"}
    with stage_times(model) as seconds:
        start = clock("cpu")
        model()
        total = clock("cpu") - start
    expected = {"preprocess": 0.01, "backbone": 0.02, "neck": 0.03, "masks": 0.05, "NMS": 0.02, "postprocess": 0.04}
    assert all(seconds[stage] >= least for stage, least in expected.items())
    assert sum(seconds.values()) == pytest.approx(total, abs=0.005)
    model()  # nothing is left behind
    assert sum(seconds.values()) == pytest.approx(total, abs=0.005)
