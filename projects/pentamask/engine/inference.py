"""A model as evaluation and prediction use it, from either kind of config."""

from detectron2.config import CfgNode
from omegaconf import DictConfig
from torch import nn

from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.optimize import compile_dense_parts, optimize_for_inference


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
