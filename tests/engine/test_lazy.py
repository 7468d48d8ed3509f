"""Each LazyConfig is its YAML file: the same model, optimizer, learning rates, loaders; the same check of classes."""

import copy
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.solver import LRMultiplier
from omegaconf import DictConfig, OmegaConf
from torch import nn

from pentamask import model_zoo
from pentamask.engine.checks import BadInput, check_lazy_class_counts
from pentamask.engine.trainer import Trainer
from pentamask.yolact.losses import YolactLoss

NAMES = [
    "BlendMask/R_50_1x",
    "CenterMask/centermask_R_50_FPN_ms_3x",
    "MaskRCNN/R_50_FPN_1x",
    "PanopticSegFormer/R_50_2x",
    "YOLACT/yolact_resnet50",
]
# What torch keeps in every module, and a loss of LVIS that none of these configs uses.
IGNORED = set(vars(nn.Module())) - {"training"} | {"get_fed_loss_cls_weights", "_forward_pre_hooks_with_kwargs"}


def describe(x: object, path: str = "") -> dict[str, object]:
    """Everything that decides what `x` does, by its path: settings, types of parts, buffers, parameters' shapes."""
    if isinstance(x, nn.Parameter):
        return {path: (tuple(x.shape), x.dtype, x.requires_grad)}
    if isinstance(x, torch.Tensor):
        return {path: x.tolist()}
    if isinstance(x, nn.Module):
        settings = {key: value for key, value in vars(x).items() if key not in IGNORED}
        parts = {**settings, **x._modules, **x._parameters, **x._buffers}
    elif isinstance(x, Mapping):
        parts = x
    elif isinstance(x, Sequence) and not isinstance(x, str):
        parts = dict(enumerate(x))
    elif hasattr(x, "__dict__") and not hasattr(x, "__qualname__"):
        parts = vars(x)
    else:
        return {path: getattr(x, "__qualname__", x)}
    described = {} if isinstance(x, Mapping | Sequence) else {path: type(x)}
    for key, part in parts.items():
        described |= describe(part, f"{path}.{key}")
    return described


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """A YAML config and its model, and the LazyConfig of that name and its model."""
    cfg, lazy = (model_zoo.get_config(request.param + suffix) for suffix in (".yaml", ".py"))
    cfg.MODEL.DEVICE = "cpu"
    return cfg, build_model(cfg), lazy, instantiate(lazy.model)


def test_model(pair):
    _, model, _, lazy_model = pair
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (model, lazy_model)]
    assert shapes[0] == shapes[1]
    assert describe(lazy_model) == describe(model)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("BlendMask/R_50_1x", "proposal_generator.strides", [8, 16, 32, 64, 256]),
        ("BlendMask/R_50_1x", "basis_module.loss_stride", 4),
        ("BlendMask/R_50_1x", "blender.spatial_scale", 0.125),
        ("CenterMask/centermask_R_50_FPN_ms_3x", "proposal_generator.strides", [4, 16, 32, 64, 128]),
        ("CenterMask/centermask_R_50_FPN_ms_3x", "roi_heads.mask_pooler.scales", [1 / 4, 1 / 8, 1 / 16]),
        ("MaskRCNN/R_50_FPN_1x", "proposal_generator.anchor_generator.strides", [8, 8, 16, 32, 64]),
        ("MaskRCNN/R_50_FPN_1x", "roi_heads.box_pooler.scales", [1 / 8, 1 / 16, 1 / 32, 1 / 64]),
    ],
)
def test_strides_that_contradict_the_backbone_are_refused(name, key, value):
    model = model_zoo.get_config(f"{name}.py").model
    OmegaConf.update(model, key, value)
    with torch.device("meta"), pytest.raises(ValueError, match=f"^{re.escape(key)} is "):
        instantiate(model)


def test_the_comparison_sees_settings_at_any_depth():
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
    net.loss = YolactLoss()
    before = describe(net)
    net.loss.matching["crowd_overlap"] = 0.5
    net[0].stride = (2, 2)
    net[0].weight.requires_grad_(False)
    changed = {path for path, value in describe(net).items() if value != before[path]}
    assert changed == {".loss.matching.crowd_overlap", ".0.stride.0", ".0.stride.1", ".0.weight"}


def _groups(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict]:
    """The settings of every parameter by its name."""
    names = {id(p): name for name, p in model.named_parameters()}
    settings = {}
    for group in optimizer.param_groups:
        # foreach chooses the implementation only.
        values = {key: value for key, value in group.items() if key not in ("params", "foreach", "initial_lr")}
        settings |= {names[id(p)]: values for p in group["params"]}
    return settings


def _step(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The parameters after a step with gradients of a large norm."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p in parameters:
        p.data = torch.ones_like(p)
        p.grad = torch.ones_like(p)
    optimizer.step()
    return [p.grad.sum() for p in parameters]


def test_optimizer_and_learning_rates(pair):
    cfg, model, lazy, lazy_model = pair
    optimizer = Trainer.build_optimizer(cfg, model)
    lazy.optimizer.params.model = lazy_model
    lazy_optimizer = instantiate(lazy.optimizer)
    assert type(lazy_optimizer) is type(optimizer)
    groups = _groups(optimizer, model)
    assert _groups(lazy_optimizer, lazy_model) == groups
    assert set(groups) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert lazy.train.max_iter == cfg.SOLVER.MAX_ITER
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    lazy_scheduler = LRMultiplier(lazy_optimizer, instantiate(lazy.lr_multiplier), lazy.train.max_iter)
    assert isinstance(scheduler, LRMultiplier)
    steps = [x + shift for x in cfg.SOLVER.STEPS for shift in (-1, 0, 1)]
    for iteration in [0, 1, 10, 250, 499, 500, 999, 1000, 5000, *steps, cfg.SOLVER.MAX_ITER - 1]:
        for x in (scheduler, lazy_scheduler):
            x.last_epoch = iteration
        assert lazy_scheduler.get_lr() == scheduler.get_lr()
    assert _step(lazy_optimizer) == _step(optimizer)  # gradients are clipped alike


def test_training_settings(pair):
    cfg, _, lazy, _ = pair
    train = lazy.train
    assert (train.init_checkpoint, train.checkpointer.period) == (cfg.MODEL.WEIGHTS, cfg.SOLVER.CHECKPOINT_PERIOD)
    assert (train.eval_period, train.amp.enabled) == (cfg.TEST.EVAL_PERIOD, cfg.SOLVER.AMP.ENABLED)
    loaders = lazy.dataloader
    assert (loaders.train.dataset.names,) == cfg.DATASETS.TRAIN and (loaders.test.dataset.names,) == cfg.DATASETS.TEST
    assert (loaders.evaluator.dataset_name,) == cfg.DATASETS.TEST
    assert loaders.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert cfg.DATALOADER.NUM_WORKERS == loaders.train.num_workers == loaders.test.num_workers
    assert loaders.train.get("aspect_ratio_grouping", True) == cfg.DATALOADER.ASPECT_RATIO_GROUPING
    assert loaders.train.dataset.get("filter_empty", True) == cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS


def _on_shapes(cfg: CfgNode, lazy: DictConfig, form: str) -> None:
    """Put the shapes data in the place of COCO, whose masks are polygons."""
    for split, key in (("train", "TRAIN"), ("test", "TEST")):
        name = f"shapes_{'val' if split == 'test' else split}{form}"
        cfg.DATASETS[key] = (name,)
        lazy.dataloader[split].dataset.names = name
        lazy.dataloader[split].num_workers = 0
    cfg.DATALOADER.NUM_WORKERS = 0
    if "instance_mask_format" in lazy.dataloader.train.mapper:
        assert lazy.dataloader.train.mapper.instance_mask_format == cfg.INPUT.MASK_FORMAT
        lazy.dataloader.train.mapper.instance_mask_format = cfg.INPUT.MASK_FORMAT = "bitmask"


def _first_batch(make_loader: Callable[[], Iterable[list[dict]]]) -> list[dict]:
    """With the instances' fields as entries of their own."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    batch = next(iter(make_loader()))
    for record in batch:
        instances = record.pop("instances", None)
        if instances is not None:
            record |= {key: getattr(value, "tensor", value) for key, value in instances.get_fields().items()}
    return batch


def test_loaders(pair, shapes, monkeypatch):
    cfg, lazy = pair[0].clone(), copy.deepcopy(pair[2])
    _on_shapes(cfg, lazy, "_panoptic" if "panoptic" in cfg.DATASETS.TRAIN[0] else "")
    monkeypatch.setattr("pentamask.engine.trainer.check_class_counts", lambda *_: None)  # the models are COCO's
    # The order of the images, which otherwise differs from loader to loader.
    monkeypatch.setattr("detectron2.data.samplers.distributed_sampler.comm.shared_random_seed", lambda: 0)
    for make, lazy_loader in (
        (lambda: Trainer.build_train_loader(cfg), lazy.dataloader.train),
        (lambda: Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]), lazy.dataloader.test),
    ):
        expected, actual = _first_batch(make), _first_batch(lambda loader=lazy_loader: instantiate(loader))
        assert len(actual) == len(expected)
        for record, lazy_record in zip(expected, actual):
            assert lazy_record.keys() == record.keys()
            for key, value in record.items():
                if isinstance(value, torch.Tensor):
                    torch.testing.assert_close(lazy_record[key], value, rtol=0, atol=0)
                else:
                    assert lazy_record[key] == value


# Of every plugin: keys of `model`, and what the shapes data wants.
CLASS_COUNTS = {
    "BlendMask/R_50_1x": {"proposal_generator.num_classes": "6 thing_classes"},
    "CenterMask/centermask_R_50_FPN_ms_3x": {"proposal_generator.num_classes": "6 thing_classes"},
    "MaskRCNN/R_50_FPN_1x": {"roi_heads.num_classes": "6 thing_classes"},
    "PanopticSegFormer/R_50_2x": {"num_thing_classes": "6 thing_classes", "num_stuff_classes": "3 stuff_only_classes"},
    "YOLACT/yolact_resnet50": {"num_classes": "6 thing_classes"},
}


@pytest.mark.parametrize("name", NAMES)
def test_class_counts(name, shapes):
    lazy = model_zoo.get_config(f"{name}.py")
    dataset = "shapes_train_panoptic" if name.startswith("Panoptic") else "shapes_train"
    DatasetCatalog.get(dataset)
    for key, classes in CLASS_COUNTS[name].items():
        count = int(classes.split()[0])
        wrong = OmegaConf.select(lazy.model, key)
        with pytest.raises(BadInput) as error:
            check_lazy_class_counts(lazy, [dataset])
        assert str(error.value) == (
            f"Dataset {dataset!r} has {classes}, but model.{key} is {wrong}. Set model.{key}={count}."
        )
        OmegaConf.update(lazy.model, key, count)
    check_lazy_class_counts(lazy, [dataset])


def test_class_counts_that_are_set_apart_or_only_by_reference(shapes):
    lazy = model_zoo.get_config("BlendMask/R_50_1x.py")
    lazy.model.proposal_generator.num_classes = 6
    lazy.model.basis_module.num_classes = 7
    with pytest.raises(
        BadInput, match=r"but model.basis_module.num_classes is 7\. Set .*model.basis_module.num_classes=6"
    ):
        check_lazy_class_counts(lazy, ["shapes_train"])
    lazy.classes = 5
    lazy.model.proposal_generator.num_classes = "${classes}"
    lazy.model.basis_module.num_classes = "${classes}"
    with pytest.raises(BadInput, match=r"6 thing_classes, but model.proposal_generator.num_classes is 5"):
        check_lazy_class_counts(lazy, ["shapes_train"])


def test_other_models_are_not_checked(shapes):
    check_lazy_class_counts(
        OmegaConf.create({"model": {"_target_": "torch.nn.Linear", "num_classes": 2}}), ["shapes_train"]
    )
