"""From --config-file and overrides to a config, with errors that say which key or file is wrong."""

import copy
import logging
import os
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, LazyConfig, get_cfg
from detectron2.engine import DefaultTrainer
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from pentamask import model_zoo
from pentamask.common import leaves
from pentamask.config import add_pentamask_config, merge_yaml, translate_config
from pentamask.engine.checks import BadInput, did_you_mean

_missing = object()


def find_config_file(path: str) -> str:
    """`path` itself if it exists, else the model zoo's config of that name, such as "FCOS/R_50_1x.yaml".

    Raises:
        BadInput: it is neither.
    """
    if not path:
        raise BadInput("--config-file is missing: give a file, or a name in the model zoo as FCOS/R_50_1x.yaml.")
    if "://" in path or os.path.isfile(path):
        return path
    try:
        return model_zoo.get_config_file(path)
    except RuntimeError:
        hint = did_you_mean(path, model_zoo.list_models())
        raise BadInput(f"{path}: no such file, and the model zoo has no config of that name.{hint}") from None


def load_config(config_file: str, overrides: list[str]) -> CfgNode:
    """Detectron2's and pentamask's defaults, then a YAML file, then the command line.

    Args:
        config_file: an existing file, see `find_config_file`.
        overrides: keys and values in turn. With SOLVER.AUTO_SCALE True the file's learning rate and schedule are scaled
            to their SOLVER.IMS_PER_BATCH.

    Raises:
        BadInput: an unknown key, a value of the wrong type, or a file that is not YAML, or asks for code to be run.
    """
    check_overrides(overrides)
    cfg = get_cfg()
    add_pentamask_config(cfg)

    def merge_overrides() -> None:
        given = cfg.clone()
        given.merge_from_list(overrides)
        if given.SOLVER.AUTO_SCALE:
            _scale_to_batch(cfg, given.SOLVER.IMS_PER_BATCH)
        cfg.merge_from_list(overrides)  # what it names is not scaled

    for source, merge in (
        (config_file, lambda: merge_yaml(cfg, config_file)),
        ("the command line", merge_overrides),
    ):
        try:
            merge()
        except Exception as error:  # malformed files end in errors of many types
            # str() of a KeyError is the repr of its message.
            message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            if not isinstance(error, (KeyError, AssertionError, ValueError, OSError, yaml.YAMLError)):
                message = f"{type(error).__name__}: {message}"
            hint = did_you_mean(message.rsplit(" ", 1)[-1], leaves(cfg)) if "Non-existent" in message else ""
            raise BadInput(f"In {source}: {' '.join(message.split())}.{hint}") from error
    translate_config(cfg)
    return cfg


def _scale_to_batch(cfg: CfgNode, batch_size: int) -> None:
    """Fit the learning rate and the lengths in iterations to another SOLVER.IMS_PER_BATCH, in place.

    The rule is that of Detectron2's SOLVER.REFERENCE_WORLD_SIZE, with the images of a batch in place of processes.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    cfg.SOLVER.REFERENCE_WORLD_SIZE = cfg.SOLVER.IMS_PER_BATCH
    scaled = DefaultTrainer.auto_scale_workers(cfg, batch_size)
    cfg.merge_from_other_cfg(scaled)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = reference


def load_lazy_config(config_file: str, overrides: list[str]) -> DictConfig:
    """A LazyConfig file with `key=value` overrides.

    Raises:
        BadInput: the file cannot be run, an override has another form, or names a key that nothing reads.
    """
    try:
        cfg = LazyConfig.load(config_file)
    except Exception as error:  # the file is a program, which can fail with anything
        raise BadInput(f"Cannot load {config_file}: {type(error).__name__}: {error}") from error
    check_overrides(overrides)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise BadInput(f"Override {override!r} of a LazyConfig must look like key=value.")
        parent, _, _ = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        # Arguments of a call may be added: a wrong one fails when the call is made.
        if OmegaConf.select(cfg, key, default=_missing) is _missing and not (
            isinstance(node, DictConfig) and "_target_" in node
        ):
            raise BadInput(f"On the command line: non-existent key {key}.{did_you_mean(key, leaves(cfg))}")
    try:
        given = LazyConfig.apply_overrides(copy.deepcopy(cfg), overrides)
        if OmegaConf.select(given, "train.auto_scale", default=False):
            _scale_lazy_to_batch(cfg, given.dataloader.train.total_batch_size)
        return LazyConfig.apply_overrides(cfg, overrides)  # what they name is not scaled
    except Exception as error:  # Hydra's parser has many
        raise BadInput(f"On the command line: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _scale_lazy_to_batch(cfg: DictConfig, batch_size: int) -> None:
    """As `_scale_to_batch`; `lr_multiplier` counts in shares of `train.max_iter` already."""
    scale = batch_size / cfg.dataloader.train.total_batch_size
    cfg.dataloader.train.total_batch_size = batch_size
    cfg.optimizer.lr *= scale
    for node, key in ((cfg.train, "max_iter"), (cfg.train, "eval_period"), (cfg.train.checkpointer, "period")):
        node[key] = round(node[key] / scale)


def load_any_config(name: str, overrides: list[str]) -> CfgNode | DictConfig:
    """The config of either kind that a path or a name in the model zoo means; see `find_config_file` for its errors."""
    path = find_config_file(name)
    return (load_lazy_config if path.endswith(".py") else load_config)(path, overrides)


def dataset_names(cfg: CfgNode | DictConfig, split: str) -> list[str]:
    """The datasets of a config for "train" or "test"; a LazyConfig may name one or a list."""
    if isinstance(cfg, CfgNode):
        return list(cfg.DATASETS[split.upper()])
    names = cfg.dataloader[split].dataset.names
    return [names] if isinstance(names, str) else list(names)


def overrides_of(config_file: str, settings: dict[tuple[str, str], Any]) -> list[str]:
    """The words of a command line that set keys of a config of either kind, whatever characters a text has.

    Args:
        config_file: a file or a name in the model zoo.
        settings: values by the YAML config's key and the LazyConfig's, as ("MODEL.DEVICE", "train.device").
    """
    if not find_config_file(config_file).endswith(".py"):
        return [word for (key, _), value in settings.items() for word in (key, repr(value))]
    return [f"{key}={_for_hydra(value)}" for (_, key), value in settings.items()]


def _for_hydra(value: Any) -> str:
    return QuotedString(text=value, quote=Quote.single).with_quotes() if isinstance(value, str) else str(value).lower()


def check_overrides(overrides: list[str]) -> None:
    """Raise `BadInput` if there are flags among the overrides, where they would be taken for keys."""
    flags = [word for word in overrides if word.startswith("--")]
    if flags:
        raise BadInput(f"{' '.join(flags)} must stand before the config's keys and values, which end the command line.")


def available_device(device: str) -> str:
    """`device`, or "cpu" with one line of log if it is a CUDA device and there is none."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger(__name__).info("No CUDA device is available: using the CPU instead of %r.", device)
        return "cpu"
    return device
