"""Values in a config that nothing can be built from, or that would be ignored or fail late."""

import logging
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg
from omegaconf import DictConfig, OmegaConf

from pentamask import model_zoo
from pentamask.common import get_key, leaves
from pentamask.config import add_pentamask_config
from pentamask.engine.checks import BadInput, did_you_mean
from pentamask.engine.early_stopping import check_early_stopping
from pentamask.plugin import declared, find_model_class

# The least that a number, or each number of a list, may be.
_MINIMA = {
    "SOLVER.MAX_ITER": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.CHECKPOINT_KEEP": 0,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.BASE_LR": 0,
    "SOLVER.WEIGHT_DECAY": 0,
    "SOLVER.MOMENTUM": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.REPEAT_THRESHOLD": 0,
    "INPUT.MIN_SIZE_TRAIN": 1,
    "INPUT.MAX_SIZE_TRAIN": 1,
    "INPUT.MIN_SIZE_TEST": 0,  # Detectron2 does not resize then
    "INPUT.MAX_SIZE_TEST": 1,
    "TEST.EVAL_PERIOD": 0,
    "TEST.DETECTIONS_PER_IMAGE": 1,
    "TEST.AUG.MIN_SIZES": 1,
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 1,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 1,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 1,
}
_NOT_EMPTY = ("INPUT.MIN_SIZE_TRAIN", "TEST.AUG.MIN_SIZES")
_LAZY_MINIMA = {
    "train.max_iter": 1,
    "train.eval_period": 0,
    "train.log_period": 1,
    "train.checkpointer.period": 1,
    "train.checkpointer.max_to_keep": 0,
    "dataloader.train.total_batch_size": 1,
    "dataloader.train.num_workers": 0,
    "dataloader.test.num_workers": 0,
    "optimizer.lr": 0,
}
_LAZY_PARTS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
_LAZY_ARGUMENTS = ("train.ddp.", "train.test_aug.")  # of calls, which fail with a wrong one
_ONE_CHANNEL = ("L", "1", "I", "F")
_FORMATS = ("BGR", "RGB", "L", "YUV-BT.601")


def check_values(cfg: CfgNode) -> None:
    """Check numbers and lists that nobody checks where they are used.

    Raises:
        BadInput: names the key and its value.
    """
    for key, least in _MINIMA.items():
        _check_minimum(key, get_key(cfg, key), least)
    for key in _NOT_EMPTY:
        if not get_key(cfg, key):
            raise BadInput(f"{key} is empty: give at least one number.")
    for key in declared(find_model_class(cfg), "score_thresholds"):
        if not 0 <= get_key(cfg, key) <= 1:
            raise BadInput(f"{key} is {get_key(cfg, key)}: a score is between 0 and 1.")
    if list(cfg.SOLVER.STEPS) != sorted(cfg.SOLVER.STEPS):
        raise BadInput(f"SOLVER.STEPS is {cfg.SOLVER.STEPS}: give the iterations in rising order.")
    stopping, keys = cfg.SOLVER.EARLY_STOPPING, ("SOLVER.EARLY_STOPPING", "TEST.EVAL_PERIOD")
    check_early_stopping(keys, stopping.METRIC, cfg.TEST.EVAL_PERIOD, stopping.PATIENCE)
    for result in cfg.TEST.EXPECTED_RESULTS:
        if not isinstance(result, Sequence) or len(result) != 4:
            raise BadInput(f"TEST.EXPECTED_RESULTS has {result!r}, expected ['task', 'metric', value, tolerance].")
    _check_colours(cfg)
    check_device("MODEL.DEVICE", cfg.MODEL.DEVICE)


def check_lazy_values(cfg: DictConfig) -> None:
    """As `check_values` for a LazyConfig, whose other parts its own calls check; and that it has all parts."""
    missing = [part for part in _LAZY_PARTS if part not in cfg]
    if missing:
        raise BadInput(f"The LazyConfig has no {', '.join(missing)}: see the files of configs/common/.")
    for key, least in _LAZY_MINIMA.items():
        value = OmegaConf.select(cfg, key)
        if value is not None:
            _check_minimum(key, value, least)
    stopping = cfg.train.get("early_stopping", {"metric": "", "patience": 1})
    keys = ("train.early_stopping", "train.eval_period")
    check_early_stopping(keys, stopping["metric"], cfg.train.eval_period, stopping["patience"])
    check_device("train.device", cfg.train.device)
    for key in unread_lazy_keys(cfg):
        if key.startswith("train."):  # others may be variables of the file
            hint = did_you_mean(key, _train_keys())
            logging.getLogger(__name__).warning("Nothing reads %s.%s", key, hint)


def unread_lazy_keys(cfg: DictConfig) -> dict[str, Any]:
    """Keys and values of a LazyConfig that nothing reads; arguments of calls are read by these."""
    known = _train_keys()

    def is_read(part: str, *path: str) -> bool:
        key = ".".join((part, *path))
        if part == "train":
            return key in known or key.startswith(_LAZY_ARGUMENTS)
        return part in _LAZY_PARTS and (part != "dataloader" or path[:1] in (("train",), ("test",), ("evaluator",)))

    return {key: value for key, value in leaves(cfg).items() if not is_read(*key.split("."))}


def _train_keys() -> dict[str, Any]:
    """All keys under `train`, with their defaults."""
    return leaves(LazyConfig.load(model_zoo.get_config_file("common/train.py")))


def check_device(key: str, device: str) -> None:
    """Raise `BadInput` that names the config key if PyTorch knows no such device."""
    try:
        torch.device(device)
    except RuntimeError as error:
        raise BadInput(f'{key} is {device!r}, expected "cuda", "cuda:1", "cpu" or the like.') from error


def _check_minimum(key: str, value: Any, least: float) -> None:
    values = value if isinstance(value, (list, tuple)) else [value]
    wrong = [x for x in values if not isinstance(x, (int, float)) or not x >= least]
    if wrong:
        raise BadInput(f"{key} is {value!r}: it must be {least} or more.")


def _check_colours(cfg: CfgNode) -> None:
    mean, std, form = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT
    if form not in _FORMATS:
        raise BadInput(f"INPUT.FORMAT is {form!r}; choose one of {', '.join(_FORMATS)}.")
    channels = 1 if form in _ONE_CHANNEL else 3
    for key, values in (("MODEL.PIXEL_MEAN", mean), ("MODEL.PIXEL_STD", std)):
        if len(values) != channels:
            raise BadInput(f"{key} has {len(values)} numbers; INPUT.FORMAT {form!r} has {channels} channels.")
    if not all(value > 0 for value in std):
        raise BadInput(f"MODEL.PIXEL_STD is {std}: pixels are divided by it, so it must be positive.")


@contextmanager
def building_errors(cfg: CfgNode | DictConfig) -> Iterator[None]:
    """Turn what goes wrong while a config is made a model, an optimizer or a loader into `BadInput`.

    Args:
        cfg: the config. Keys of a CfgNode with a value that the error speaks of, and which is no default, are named; a
            LazyConfig's call that failed is logged by Detectron2.
    """
    try:
        yield
    except BadInput:
        raise
    except (KeyError, ValueError, TypeError, AssertionError, AttributeError, IndexError, RuntimeError) as error:
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = " ".join(message.split()) or f"`{frame.line}`"
        keys = keys_of(message, _own_values(cfg)) if isinstance(cfg, CfgNode) else []
        hint = f" Look at {' and '.join(keys)}." if keys else ""
        if "pentamask" in frame.filename and isinstance(error, ValueError):
            raise BadInput(message) from error
        raise BadInput(f"This config cannot be built: {type(error).__name__}: {message.rstrip('.!')}.{hint}") from error


def keys_of(message: str, values: Mapping[str, Any]) -> list[str]:
    """The `values` whose value, or an element of it, occurs in a message; numbers only if they are conspicuous."""
    words = set(re.findall(r"[\w.+-]+", message))
    if not re.fullmatch(r"\d+", message):
        words = {word for word in words if not re.fullmatch(r"[\d.]+", word)}
    found = []
    for key, value in values.items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        if any(str(part) in words for part in parts):
            found.append(f"{key} {value}")
    return found[:3]


def _own_values(cfg: CfgNode) -> dict[str, Any]:
    """The values, by their keys, that differ from the defaults."""
    defaults = get_cfg()
    add_pentamask_config(defaults)
    return dict(differences(cfg, defaults))


def differences(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys, after `prefix`, and values of `cfg` that `defaults` has not, or with another value."""
    for key, value in cfg.items():
        default = defaults.get(key)
        if isinstance(value, CfgNode) and isinstance(default, CfgNode):
            yield from differences(value, default, f"{prefix}{key}.")
        elif value != default:
            yield prefix + key, value
