"""The few helpers that every part of pentamask may use: registration, config keys, extras, precision, means over
processes."""

import importlib
import logging
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.utils import comm
from fvcore.common.registry import Registry
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

_T = TypeVar("_T")
# "NAME of REGISTRY (module that has it)", by `register`.
_taken: list[str] = []


def register(registry: Registry, name: str | None = None) -> Callable[[_T], _T]:
    """As `registry.register()`, but a name that another package has taken is left to it.

    AdelaiDet and centermask2 use some of our names; `report_taken_names` tells which.

    Args:
        registry: one of Detectron2's.
        name: to register under instead of the object's own.
    """

    def decorate(item: _T) -> _T:
        key = name or item.__name__  # type: ignore[attr-defined]
        if key in registry:
            _taken.append(f"{key} of {registry._name} ({registry.get(key).__module__})")
        else:
            registry._do_register(key, item)
        return item

    return decorate


def report_taken_names() -> None:
    """Say in one line of log which names `register` left to other packages."""
    if _taken:
        logging.getLogger(__name__).warning(
            "Left alone, because another package registered them first: %s. A config that names them builds that "
            "package's models, not pentamask's.",
            ", ".join(_taken),
        )
        _taken.clear()


def get_key(cfg: CfgNode, key: str) -> Any:
    """The value of a key with its parents', as "MODEL.DEVICE"."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a config of either kind, or of nested dicts, by their keys with the parents'."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node)
    if not isinstance(node, dict) or not node:
        return {prefix.removesuffix("."): node}
    return {key: leaf for name, value in node.items() for key, leaf in leaves(value, f"{prefix}{name}.").items()}


def ignore_keys(cfg: CfgNode, *keys: str) -> None:
    """Let files that set `keys` load, with a line of log for each: keys of the authors that change no result."""
    for key in set(keys) - cfg.__dict__[CfgNode.DEPRECATED_KEYS]:  # it refuses to do it twice
        cfg.register_deprecated_key(key)


def add_defaults(node: CfgNode, **defaults: Any) -> CfgNode:
    """Set the keys that `node` lacks; keys it has keep their values, so that calling twice is calling once.

    Args:
        node: the config node to extend, in place.
        defaults: key names and default values. A value of type dict becomes a nested node, extended in the same way.

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


def derive(key: str, given: Any, right: Any) -> Any:
    """The value `right` of config key `key`, which follows from the rest of the model.

    Args:
        key: for the message.
        given: what the config says: the same, or 0 or an empty list to say nothing.
        right: a number or a list of numbers.

    Raises:
        ValueError: `given` is another value; names the key and both.
    """
    if given and tuple(np.atleast_1d(given)) != tuple(np.atleast_1d(right)):
        raise ValueError(
            f"{key} is {given}, but the backbone's features give {right}: set it to that, or leave it out."
        )
    return right


def check_pooler(key: str, pooler: ROIPooler | None, in_features: list[str], shapes: dict[str, ShapeSpec]) -> None:
    """Raise `ValueError`, as `derive` does, if the scales of `pooler` are not those of a backbone's `in_features`."""
    if pooler is not None:
        scales = [level.spatial_scale for level in pooler.level_poolers]
        derive(f"{key}.scales", scales, [1 / shapes[name].stride for name in in_features])


def import_extra(name: str, extra: str) -> ModuleType:
    """The module `name` of a package that only some tools need.

    Raises:
        ImportError: it is not installed; names the extra of pentamask that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"This needs the package {name}: pip install pentamask[{extra}] ({error}).") from error


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it has a shorter type: scores, boxes, losses and sums over masks lose too much in 16 bit."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def upload(x: Tensor, device: torch.device) -> Tensor:
    """`x`, which lies on the CPU, on `device`; by way of pinned memory, so that nobody waits for the GPU."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def vector_of_sizes(sizes: Sequence[Any], like: Tensor) -> Tensor:
    """Heights and widths as a vector (n,) in the type and on the device of `like`.

    Unlike `like.new_tensor(sizes)` it follows the input of a model that is traced, where sizes are
    tensors, or exported, where they are symbols.
    """
    if all(type(size) is int for size in sizes):
        return upload(torch.tensor(sizes, dtype=like.dtype), like.device)
    return torch.stack([like.new_zeros(()) + size for size in sizes])


def reduce_mean(value: Tensor) -> Tensor:
    """Mean of a scalar over all workers, without gradient."""
    value = value.detach().clone()
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(value)
        value /= comm.get_world_size()
    return value


def mean_count(count: Tensor) -> Tensor:
    """What a worker divides a sum over its elements by, so that the workers' average is the mean over all elements.

    Every worker has to call it, also one without elements.

    Args:
        count: any shape, numbers of this worker's elements.

    Returns:
        The mean over all workers, and at least one element in all; floating point, so that the sum stays what it is.
    """
    return reduce_mean(count.float()).clamp(min=1 / comm.get_world_size())
