"""Optimizers beyond Detectron2's: AdamW, learning rates by parameter name, one gradient norm for the whole model."""

import re
from collections.abc import Callable, Iterable, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from detectron2.solver import get_default_optimizer_params
from torch import nn

from pentamask.common import check_choice


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `SOLVER` describes.

    "SGD" is Detectron2's. "ADAMW" (Decoupled weight decay, arXiv 1711.05101) multiplies the learning rate of the
    backbone by BACKBONE_MULTIPLIER, and that of parameters whose name contains a match of a regular expression in
    LR_MULTIPLIERS by its factor. CLIP_GRADIENTS.CLIP_TYPE "full_model" clips the norm of all gradients together.

    Raises:
        ValueError: an unknown OPTIMIZER, or settings that it does not have.
    """
    node = cfg.SOLVER
    check_choice("SOLVER.OPTIMIZER", node.OPTIMIZER, ("SGD", "ADAMW"))
    if node.OPTIMIZER == "SGD":
        _refuse_ignored(node)
        return build_detectron2_optimizer(cfg, model)
    clip = node.CLIP_GRADIENTS
    clip_type = clip["CLIP_TYPE"]  # as an item, see SolverNode
    if clip.ENABLED and clip_type != "full_model":
        raise ValueError(f'SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip_type!r}; AdamW has "full_model" only.')
    params = get_default_optimizer_params(
        model,
        base_lr=node.BASE_LR,
        weight_decay=node.WEIGHT_DECAY,
        weight_decay_norm=node.WEIGHT_DECAY_NORM,
        bias_lr_factor=node.BIAS_LR_FACTOR,
        weight_decay_bias=node.WEIGHT_DECAY_BIAS,
        lr_factor_func=lr_factor_func([("^backbone\\.", node.BACKBONE_MULTIPLIER), *node.LR_MULTIPLIERS]),
    )
    clip_norm = clip.CLIP_VALUE if clip.ENABLED else None
    return build_adamw(params, node.BASE_LR, node.WEIGHT_DECAY, clip_norm=clip_norm, norm_type=clip.NORM_TYPE)


def lr_factor_func(multipliers: Iterable[Sequence]) -> Callable[[str], float]:
    """For Detectron2's `get_default_optimizer_params`: the learning rate's factor by the name of a parameter.

    Args:
        multipliers: pairs of a regular expression and a factor. The first that matches a part of the name counts, and
            without a match the factor is 1.
    """
    pairs = [(re.compile(pattern), factor) for pattern, factor in multipliers]
    return lambda name: next((factor for pattern, factor in pairs if pattern.search(name)), 1.0)


def build_adamw(
    params: list[dict], lr: float, weight_decay: float, *, clip_norm: float | None = None, norm_type: float = 2.0
) -> torch.optim.AdamW:
    """AdamW that may clip the gradients' norm, taken over the whole model, before each step.

    Args:
        params: parameter groups.
        lr, weight_decay: of groups that do not say.
        clip_norm: largest norm; None does not clip.
        norm_type: p of the norm.
    """
    optimizer = torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay)
    if clip_norm is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def clip_gradients(*_: object) -> None:
            nn.utils.clip_grad_norm_(parameters, clip_norm, norm_type)

        optimizer.register_step_pre_hook(clip_gradients)
    return optimizer


def _refuse_ignored(node: CfgNode) -> None:
    """Raise `ValueError` for settings that Detectron2's optimizer would ignore."""
    if node.BACKBONE_MULTIPLIER != 1.0 or len(node.LR_MULTIPLIERS):
        raise ValueError('SOLVER.BACKBONE_MULTIPLIER and SOLVER.LR_MULTIPLIERS need SOLVER.OPTIMIZER "ADAMW".')
    if node.CLIP_GRADIENTS.ENABLED and node.CLIP_GRADIENTS["CLIP_TYPE"] == "full_model":
        raise ValueError('SOLVER.CLIP_GRADIENTS.CLIP_TYPE "full_model" needs SOLVER.OPTIMIZER "ADAMW".')
