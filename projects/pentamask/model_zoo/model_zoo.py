"""The functions of `detectron2.model_zoo`, over pentamask's configs."""

from importlib.resources import files
from pathlib import Path, PurePath

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from pentamask.checkpoint.loader import PentamaskCheckpointer, load_completely
from pentamask.config import add_pentamask_config, merge_yaml, translate_config
from pentamask.model_zoo.catalog import list_releases


def list_models() -> list[str]:
    """Names of all configs that describe a model, for example "BlendMask/R_50_1x.yaml", in alphabetical order."""
    root = _config_root()
    paths = (path for suffix in ("yaml", "py") for path in root.glob(f"*/**/*.{suffix}"))
    names = (path.relative_to(root) for path in paths if not path.name.startswith(("Base-", "_")))
    return sorted(name.as_posix() for name in names if name.parts[0] != "common")


def get_config_file(config_path: str) -> str:
    """Path of a shipped config, in the installed package or the checkout.

    Args:
        config_path: name relative to pentamask's `configs/`, for example "BlendMask/R_50_1x.yaml". A file of your own
            is read by `pentamask.engine.load_config.load_config`.

    Raises:
        RuntimeError: there is no such config.
    """
    name = PurePath(config_path)
    file = _config_root() / name
    if name.is_absolute() or ".." in name.parts or not file.is_file():
        raise RuntimeError(f"{config_path} not available in Model Zoo! pentamask.model_zoo.list_models() names them.")
    return str(file)


def get_checkpoint_url(config_path: str) -> str:
    """Address of the model that was released for a config.

    Raises:
        RuntimeError: none was released, or only a page is known where to look for it; the message tells which.
    """
    release = list_releases().get(config_path)
    if release is None or release.url is None:
        message = f"Pretrained model for {config_path} is not available!"
        if release is not None:
            message += (
                f" Its file is listed on github.com/{release.page}: download it and set MODEL.WEIGHTS to its path."
            )
        raise RuntimeError(message)
    return release.url


def get_config(config_path: str, trained: bool = False) -> CfgNode | DictConfig:
    """Config of a model, with all of pentamask's keys.

    Args:
        config_path: as in `get_config_file`.
        trained: let the weights be the released model (`get_checkpoint_url`) instead of what the recipe starts from.
    """
    file = get_config_file(config_path)
    if file.endswith(".py"):
        config = LazyConfig.load(file)
        if trained:
            config.train.init_checkpoint = get_checkpoint_url(config_path)
        return config
    cfg = get_cfg()
    add_pentamask_config(cfg)
    merge_yaml(cfg, file)
    translate_config(cfg)
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build a model, in training mode, with the weights its config names.

    Args:
        config_path: as in `get_config_file`.
        trained: as in `get_config`.
        device: instead of the config's; without one and without a GPU the model is built on the CPU.
    """
    config = get_config(config_path, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if isinstance(config, CfgNode):
        config.MODEL.DEVICE = device or config.MODEL.DEVICE
        model, weights = build_model(config), config.MODEL.WEIGHTS
    else:
        model, weights = instantiate(config.model), config.get("train", {}).get("init_checkpoint", "")
        model = model if device is None else model.to(device)
    if trained:
        load_completely(model, weights)
    else:
        PentamaskCheckpointer(model).load(weights)
    return model


def _config_root() -> Path:
    return Path(str(files("pentamask.configs")))
