"""SOLVER.AUTO_SCALE fits what a file says to the batch of the command line, by the rule of REFERENCE_WORLD_SIZE."""

import pytest

from pentamask import model_zoo
from pentamask.engine.checks import BadInput
from pentamask.engine.load_config import find_config_file, load_config, load_lazy_config, overrides_of

BLENDMASK = find_config_file("BlendMask/R_50_1x.yaml")


def test_auto_scale():
    cfg = load_config(BLENDMASK, ["SOLVER.AUTO_SCALE", "True", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.WARMUP_ITERS", "7"])
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (4, 0.0025, 360000)
    assert solver.STEPS == (240000, 320000) and solver.CHECKPOINT_PERIOD == 20000
    assert solver.WARMUP_ITERS == 7 and solver.REFERENCE_WORLD_SIZE == 0  # the command line has the last word


def test_without_auto_scale_only_the_batch_changes():
    cfg = load_config(BLENDMASK, ["SOLVER.IMS_PER_BATCH", "4"])
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (4, 0.01, 90000)


@pytest.mark.parametrize("name", [name for name in model_zoo.list_models() if name.endswith(".yaml")])
def test_every_config_can_be_scaled(name):
    plain = model_zoo.get_config(name).SOLVER
    twice = ["SOLVER.AUTO_SCALE", "True", "SOLVER.IMS_PER_BATCH", str(2 * plain.IMS_PER_BATCH)]
    scaled = load_config(find_config_file(name), twice).SOLVER
    assert scaled.BASE_LR == 2 * plain.BASE_LR
    assert round(plain.MAX_ITER / 2) == scaled.MAX_ITER
    assert tuple(round(step / 2) for step in plain.STEPS) == scaled.STEPS


def test_auto_scale_of_a_lazy_config():
    overrides = ["train.auto_scale=true", "dataloader.train.total_batch_size=4", "train.checkpointer.period=10"]
    cfg = load_lazy_config(find_config_file("BlendMask/R_50_1x.py"), overrides)
    assert (cfg.optimizer.lr, cfg.train.max_iter, cfg.train.checkpointer.period) == (0.0025, 360000, 10)
    assert cfg.dataloader.train.total_batch_size == 4
    assert cfg.lr_multiplier.warmup_length == 1000 / 90000  # a share of the training


@pytest.mark.parametrize("name", ["BlendMask/R_50_1x.yaml", "BlendMask/R_50_1x.py"])
@pytest.mark.parametrize("folder", ["new é, (1)=x", 'it\'s "here"', "7", ""])
def test_overrides_of_any_text(name, folder):
    keys = {("OUTPUT_DIR", "train.output_dir"): folder, ("MODEL.OPTIMIZE", "train.optimize"): False}
    load, words = (load_lazy_config if name.endswith(".py") else load_config), overrides_of(name, keys)
    cfg = load(find_config_file(name), words)
    found = (cfg.train.output_dir, cfg.train.optimize) if name.endswith(".py") else (cfg.OUTPUT_DIR, cfg.MODEL.OPTIMIZE)
    assert found == (folder, False)


def test_names_that_are_nearly_right():
    with pytest.raises(BadInput, match=r"^R_50_FPN_1x.yml: no such file.* Did you mean MaskRCNN/R_50_FPN_1x.yaml or"):
        find_config_file("R_50_FPN_1x.yml")
