"""Optimizers; `train_net.py` fills in `params.model`."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

from pentamask.engine.optimizer import build_adamw, lr_factor_func

SGD = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=0.01,
    momentum=0.9,
    weight_decay=1e-4,
)

# Learning rates by the names of the parameters: the first regular expression that matches, with its factor.
ADAMW = L(build_adamw)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", lr_factor_func=L(lr_factor_func)(multipliers=[])),
    lr=1e-4,
    weight_decay=1e-4,
    clip_norm=None,
)
