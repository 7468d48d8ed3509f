"""A loss that is not finite names itself, the learning rate and the images."""

import pytest
import torch

import pentamask  # noqa: F401
from pentamask.engine.load_config import available_device, load_config
from pentamask.engine.trainer import Trainer


def test_nan_loss_is_explained(shapes, tmp_path):
    options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), "SOLVER.IMS_PER_BATCH", "2"]
    cfg = load_config("configs/shapes/BlendMask_R_50_thin.yaml", [*options, "DATALOADER.NUM_WORKERS", "0"])
    trainer = Trainer(cfg)
    with torch.no_grad():
        trainer.model.top_layer.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError) as error:
        trainer.train()
    message = str(error.value)
    assert message.startswith("loss_mask became infinite or NaN at iteration 0, with learning rate ")
    assert message.count(".jpg") == 2 and "loss_fcos_cls" in message and "SOLVER.BASE_LR" in message


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [available_device(device) for device in ("cpu", "cuda", "cuda:1")] == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert available_device("cuda:1") == "cuda:1"
