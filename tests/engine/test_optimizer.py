import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from pentamask import add_pentamask_config
from pentamask.engine.optimizer import build_optimizer


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_pentamask_config(cfg)
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.WEIGHT_DECAY = 0.01
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.02
    return cfg


def model():
    torch.manual_seed(0)
    parts = {"backbone": nn.Linear(2, 2), "sampling_offsets": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}
    return nn.ModuleDict(parts)


def rates(optimizer, net):
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    return {name: (groups[id(p)]["lr"], groups[id(p)]["weight_decay"]) for name, p in net.named_parameters()}


def test_rates_follow_from_names(cfg):
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.LR_MULTIPLIERS = [["sampling_offsets", 0.5]]
    net = model()
    optimizer = build_optimizer(cfg, net)
    assert isinstance(optimizer, torch.optim.AdamW)
    found = rates(optimizer, net)
    assert found["backbone.weight"] == pytest.approx((0.01, 0.01))
    assert found["sampling_offsets.bias"] == pytest.approx((0.05, 0.01))
    assert found["norm.weight"] == pytest.approx((0.1, 0.02))


def test_published_config_decays_everything_alike():
    from pentamask import model_zoo

    cfg = model_zoo.get_config("PanopticSegFormer/R_50_1x.yaml")
    net = model()
    assert {decay for _, decay in rates(build_optimizer(cfg, net), net).values()} == {1e-4}


@pytest.mark.parametrize("enabled", [True, False])
def test_the_norm_of_all_gradients_is_clipped(cfg, enabled):
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = enabled
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    net = model()
    optimizer = build_optimizer(cfg, net)
    for p in net.parameters():
        p.grad = torch.full_like(p, 3.0)
    before = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
    optimizer.step()
    after = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
    torch.testing.assert_close(after, torch.tensor(0.5) if enabled else before)


def test_the_norm_is_of_the_wanted_type(cfg):
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"])
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 4.0, "SOLVER.CLIP_GRADIENTS.NORM_TYPE", 1.0])
    net = nn.Linear(3, 2)
    optimizer = build_optimizer(cfg, net)
    for p in net.parameters():
        p.grad = torch.full_like(p, -3.0)
    optimizer.step()
    # 8 gradients of 3 have the 1-norm 24, which becomes 4.
    torch.testing.assert_close(net.weight.grad, torch.full((2, 3), -0.5))


def test_sgd_is_detectron2s(cfg):
    cfg.SOLVER.OPTIMIZER = "SGD"
    assert isinstance(build_optimizer(cfg, model()), torch.optim.SGD)


@pytest.mark.parametrize(
    "settings, message",
    [
        (["OPTIMIZER", "LION"], "SOLVER.OPTIMIZER is 'LION'"),
        (["CLIP_GRADIENTS.ENABLED", True], 'AdamW has "full_model" only'),
        (["OPTIMIZER", "SGD", "BACKBONE_MULTIPLIER", 0.1], "BACKBONE_MULTIPLIER"),
        (["OPTIMIZER", "SGD", "CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_TYPE", "full_model"], "full_model"),
    ],
)
def test_settings_without_effect_are_refused(cfg, settings, message):
    names = [f"SOLVER.{x}" if i % 2 == 0 else x for i, x in enumerate(settings)]
    cfg.merge_from_list(names)
    with pytest.raises(ValueError, match=message):
        build_optimizer(cfg, model())
