"""The report on a training that is not finite is about the batch that the model was looking at."""

import pytest
import torch
from torch import nn

from pentamask.engine.loss_report import LossReport


class _Model(nn.Module):
    """Its loss is the batch's "loss"; it raises where that is None."""

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor]:
        if batched_inputs[0]["loss"] is None:
            raise FloatingPointError("Scores are NaN.")
        return {"loss_a": torch.tensor(batched_inputs[0]["loss"]), "loss_b": torch.tensor(2.0)}


def test_losses_that_are_not_finite_are_named():
    model = _Model()
    report = LossReport(model)
    model([{"file_name": "1.jpg", "loss": 1.0}])
    model([{"file_name": "2.jpg", "loss": float("inf")}])
    message = str(report.explain(FloatingPointError("Loss"), 7, 0.01))
    assert message.startswith(
        "loss_a became infinite or NaN at iteration 7, with learning rate 0.01. Losses: loss_a inf"
    )
    assert "batch: 2.jpg." in message


def test_a_forward_pass_that_fails_has_no_losses():
    model = _Model()
    report = LossReport(model)
    model([{"file_name": "1.jpg", "loss": 1.0}])
    with pytest.raises(FloatingPointError) as error:
        model([{"file_name": "2.jpg", "loss": None}])
    message = str(report.explain(error.value, 1, 0.01))
    assert message.startswith(
        "The model failed before there were losses (Scores are NaN) at iteration 1, with learning"
    )
    assert "batch: 2.jpg." in message and "1.jpg" not in message and "Losses" not in message
