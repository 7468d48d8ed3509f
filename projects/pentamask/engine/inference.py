"""Models of either kind of config, as evaluation and prediction use them."""

from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.engine.checks import check_weights
from pentamask.engine.config_checks import building_errors
from pentamask.engine.load_config import available_device, load_any_config
from pentamask.optimize import compile_dense_parts, optimize_for_inference


def load_runnable_config(name: str, overrides: list[str]) -> CfgNode | DictConfig:
    """As `load_any_config`, for a device that there is.

    Raises:
        BadInput: also if the weights that it names do not exist.
    """
    cfg = load_any_config(name, overrides)
    if isinstance(cfg, CfgNode):
        check_weights("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS)
        cfg.MODEL.DEVICE = available_device(cfg.MODEL.DEVICE)
        cfg.freeze()
    else:
        check_weights("train.init_checkpoint", cfg.train.init_checkpoint)
        cfg.train.device = available_device(cfg.train.device)
    return cfg


def build_any_model(cfg: CfgNode | DictConfig) -> nn.Module:
    """The model of a config, on its device, with fresh weights.

    Raises:
        BadInput: it cannot be built.
    """
    with building_errors(cfg):
        if isinstance(cfg, CfgNode):
            return build_model(cfg)
        return instantiate(cfg.model).to(cfg.train.device)


def load_for_inference(cfg: CfgNode | DictConfig, model: nn.Module, *, resume: bool = False) -> nn.Module:
    """`model` itself in evaluation mode with the config's weights, then optimised and compiled if the config says so.

    Args:
        cfg: MODEL.WEIGHTS or train.init_checkpoint is loaded.
        model: built of it.
        resume: load the newest checkpoint in its output folder instead, if there is one.
    """
    if isinstance(cfg, CfgNode):
        weights, folder, partial = cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS_PARTIAL
        optimize, compiled = cfg.MODEL.OPTIMIZE, cfg.MODEL.COMPILE
    else:
        train = cfg.train
        weights, folder, partial = train.init_checkpoint, train.output_dir, train.get("weights_partial", False)
        optimize, compiled = train.get("optimize", True), train.get("compile", False)
    model.eval()  # before loading: nothing may be left to training
    PentamaskCheckpointer(model, folder, partial=partial).resume_or_load(weights, resume=resume)
    if optimize:
        optimize_for_inference(model, in_place=True)
    if compiled:
        compile_dense_parts(model)
    return model
