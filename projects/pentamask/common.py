"""The few helpers that every part of pentamask may use: config defaults, precision, means over processes, choices."""

from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor


def add_defaults(node: CfgNode, **defaults: Any) -> CfgNode:
    """Set the keys that `node` lacks; keys it has keep their values, so that calling twice is calling once.

    Args:
        node: the config node to extend, in place.
        defaults: key names and default values. A value of type dict becomes a nested node, extended likewise.

    Returns:
        `node`.
    """
    for key, value in defaults.items():
        if isinstance(value, dict):
            add_defaults(node.setdefault(key, CfgNode()), **value)
        else:
            node.setdefault(key, value)
    return node


def check_choice(key: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise `ValueError` that names the config key unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        *first, last = (f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices)
        raise ValueError(f"{key} is {value!r}; choose {', '.join(first)}{' or ' if first else ''}{last}.")


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it has a shorter type: scores, boxes, losses and sums over masks lose too much in 16 bit."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def reduce_mean(value: Tensor) -> Tensor:
    """Mean of a scalar over all workers, without gradient."""
    value = value.detach().clone()
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(value)
        value /= comm.get_world_size()
    return value
