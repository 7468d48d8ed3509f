"""Mixed precision, skipped steps, and the moving average of the weights, in all models on the CPU."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from pentamask.data.loader import seed_everything
from pentamask.engine.load_config import load_config
from pentamask.engine.step import BATCH_FILE, _pack, find_precision, load_batch
from pentamask.engine.trainer import Trainer
from pentamask.tools import replay_batch

NAMES = [f"{name}_R_50_thin" for name in ("BlendMask", "CenterMask_Lite", "YOLACT", "MaskRCNN", "PanopticSegFormer")]


def config(name: str, folder: Path, **options: object) -> CfgNode:
    options = {
        "SEED": 1,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.STEPS": "()",
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "OUTPUT_DIR": folder,
        "MODEL.DEVICE": "cpu",
        "DATASETS.TEST": "()",
        **options,
    }
    return load_config(f"configs/shapes/{name}.yaml", [str(word) for item in options.items() for word in item])


def make_trainer(cfg: CfgNode) -> Trainer:
    seed_everything(0)  # of the weights, and of the order of the images
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    return trainer


def losses_of(trainer: Trainer) -> dict[str, float]:
    return {name: value for name, (value, _) in trainer.storage.latest().items() if "loss" in name}


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_on_the_cpu(name: str, shapes: str, tmp_path: Path) -> None:
    losses = []
    for enabled in (False, True):
        options = {"SOLVER.AMP.ENABLED": enabled, "SOLVER.AMP.PRECISION": "bf16", "SOLVER.MAX_ITER": 1}
        trainer = make_trainer(config(name, tmp_path / str(enabled), **options))
        trainer.train()
        losses.append(losses_of(trainer))
    # Matters of rounding before anything was learned: where logits are above 0, and which regions are proposed.
    for part in losses:
        part.pop("loss_maskiou", None)
        part.pop("loss_box_reg", None)
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert losses[0]["total_loss"] == pytest.approx(losses[1]["total_loss"], rel=0.03)
    assert losses[0] != losses[1]


def test_what_a_device_can() -> None:
    assert find_precision("bf16", "cpu") is torch.bfloat16 and find_precision("fp16", "cuda:1") is torch.float16
    assert find_precision("fp16", "cpu") is None
    with pytest.raises(ValueError, match='SOLVER.AMP.PRECISION is \'half\'; choose "fp16" or "bf16"'):
        find_precision("half", "cpu")


class Breaking(Trainer):
    """Whose losses are NaN in the iterations `broken`."""

    broken = frozenset({1, 2})

    def run_step(self) -> None:
        model = self.model
        hook = model.register_forward_hook(
            lambda *args: (
                {name: loss * float("nan") for name, loss in args[2].items()} if self.iter in self.broken else None
            )
        )
        try:
            super().run_step()
        finally:
            hook.remove()


def test_steps_that_are_not_finite_are_left_out(
    shapes: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    cfg = config(NAMES[0], tmp_path, **{"SOLVER.SKIP_NONFINITE": 2, "SOLVER.MAX_ITER": 4})
    trainer = Breaking(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.iter == 4 and all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert "Iteration 1 is left out, 1 of at most 2" in caplog.text
    assert "Iteration 2 is left out, 2 of at most 2" in caplog.text
    options = [str(word) for key in ("MODEL.DEVICE",) for word in (key, "cpu")]
    arguments = ["--config-file", f"shapes/{NAMES[0]}.yaml", str(tmp_path / BATCH_FILE), *options]
    losses = replay_batch.main(replay_batch.get_parser().parse_args(arguments))
    assert losses["loss_mask"] > 0 and "Iteration 1. First output that is not finite: none" in capsys.readouterr().out


def test_too_many_in_a_row_end_the_training(shapes: str, tmp_path: Path) -> None:
    trainer = Breaking(config(NAMES[0], tmp_path, **{"SOLVER.SKIP_NONFINITE": 1, "SOLVER.MAX_ITER": 4}))
    trainer.resume_or_load(resume=False)
    with pytest.raises(FloatingPointError):
        trainer.train()
    assert trainer.iter == 2


def test_replay_names_the_first_module_that_breaks(shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trainer = make_trainer(config(NAMES[0], tmp_path))
    with torch.no_grad():
        trainer.model.basis_module.tower[2][0].weight[0] = float("nan")
    with pytest.raises(FloatingPointError):
        trainer.train()
    arguments = ["--config-file", f"shapes/{NAMES[0]}.yaml", str(tmp_path / BATCH_FILE), "MODEL.DEVICE", "cpu"]
    replay_batch.main(replay_batch.get_parser().parse_args(arguments))
    assert "First output that is not finite: basis_module.tower.2.0." in capsys.readouterr().out


def test_a_batch_is_saved_in_tensors_and_read_again(tmp_path: Path) -> None:
    boxes, masks = torch.tensor([[1.0, 2.0, 5.0, 6.0]]), torch.ones(1, 8, 8, dtype=torch.bool)
    first = Instances((8, 8), gt_boxes=Boxes(boxes), gt_masks=BitMasks(masks), gt_classes=torch.tensor([2]))
    second = Instances((8, 8), gt_masks=PolygonMasks([[[1.0, 1.0, 4.0, 1.0, 4.0, 4.0]]]))
    batch = [{"image": torch.ones(3, 8, 8), "file_name": "a.png", "instances": first}, {"instances": second}]
    torch.save([_pack(x) for x in batch], tmp_path / "batch.pth")
    found = load_batch(torch.load(tmp_path / "batch.pth", weights_only=True))
    assert found[0]["file_name"] == "a.png" and torch.equal(found[0]["image"], batch[0]["image"])
    assert torch.equal(found[0]["instances"].gt_boxes.tensor, boxes) and found[0]["instances"].image_size == (8, 8)
    assert torch.equal(found[0]["instances"].gt_masks.tensor, masks)
    assert found[1]["instances"].gt_masks.polygons[0][0].tolist() == [1.0, 1.0, 4.0, 1.0, 4.0, 4.0]


def test_the_average_of_the_weights(shapes: str, tmp_path: Path) -> None:
    seen = []

    class Watching(Trainer):
        def after_step(self) -> None:
            super().after_step()
            seen.append(self.model.top_layer.weight.detach().clone())

        @classmethod
        def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: object = None) -> dict:
            return {"segm": {"AP": float(model.top_layer.weight.detach().sum())}}

    options = {"MODEL_EMA.ENABLED": True, "MODEL_EMA.DECAY": 0.5, "SOLVER.CHECKPOINT_PERIOD": 1}
    trainer = Watching(config(NAMES[0], tmp_path, **options))
    trainer.resume_or_load(resume=False)
    start = trainer.model.top_layer.weight.detach().clone()
    trainer.train()
    expected = 0.5 * (0.5 * start + 0.5 * seen[0]) + 0.5 * seen[1]
    torch.testing.assert_close(trainer.ema.model.top_layer.weight, expected)
    saved = torch.load(tmp_path / "model_final_ema.pth")["model"]["top_layer.weight"]
    torch.testing.assert_close(saved, expected)
    assert trainer.last_results["segm_EMA"]["AP"] == pytest.approx(float(expected.sum()))
    assert trainer.last_results["segm"]["AP"] == pytest.approx(float(seen[1].sum()))
    again = Watching(config(NAMES[0], tmp_path, **options))
    again.resume_or_load(resume=True)
    torch.testing.assert_close(again.ema.model.top_layer.weight, expected)
