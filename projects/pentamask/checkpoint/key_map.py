"""Renaming the keys of an authors' checkpoint while a model loads it, and refusing the file of another model."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pentamask.plugin import declared, registered_models

_logger = logging.getLogger(__name__)

# Entries that Detectron2 versions save or leave out without a meaning for the result.
_BOOKKEEPING = re.compile(r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std)$")
# The last layer of an ImageNet network, and the norm before it, as torchvision, Detectron2, Caffe2 and timm name them.
_CLASSIFIER = re.compile(
    r"^(stem\.)?(fc\d*|classifier(\.\d+)?|head(\.fc)?|norm|linear|pred|last_linear)[._](weight|bias|w|b)$"
)
PARTIAL_HINT = (
    "To load what fits all the same, set MODEL.WEIGHTS_PARTIAL True (LazyConfig: train.weights_partial=True)."
)
_partial: ContextVar[bool] = ContextVar("accept_partial_weights", default=False)


@dataclass(frozen=True)
class KeyRules:
    """How the keys of a released file become those of our model. All patterns are regular expressions.

    Attributes:
        model: the model's name, for messages.
        authors: GitHub repository that the released files come from.
        signature: patterns of which each matches a renamed key of every such file. Where the files of several models
            match, the longer signature decides, as that of a model that contains another one.
        renames: (pattern, replacement) pairs, applied to every key by `re.sub` in this order.
        ignored: keys of a file that may be dropped when the model has no such entry.
        optional: keys of the model that a file may lack for training: layers sized by the number of classes
            (Detectron2 drops them, with a warning, when the sizes differ) and layers that only training needs.
        backbone: prefix, or prefixes, of the part that an ImageNet file fills on its own.
    """

    model: str
    authors: str = ""
    signature: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    backbone: str | tuple[str, ...] = "backbone.bottom_up."

    def rename(self, key: str) -> str:
        """Our name for the authors' `key`."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


def torchvision_resnet_renames(prefix: str) -> tuple[tuple[str, str], ...]:
    """`KeyRules.renames` from torchvision's names of a ResNet to Detectron2's.

    Args:
        prefix: of the network in the model, as "backbone.bottom_up."; the file's names have it too, or none.
    """
    start = re.escape(prefix)
    block = rf"^({start}(?:stem|res\d\.\d+))"
    return (
        (rf"^(?:{start})?conv1\.", f"{prefix}stem.conv1."),
        (rf"^(?:{start})?bn1\.", f"{prefix}stem.conv1.norm."),
        *((rf"^(?:{start})?layer{i}\.", f"{prefix}res{i + 1}.") for i in range(1, 5)),
        (block + r"\.downsample\.0\.", r"\1.shortcut."),
        (block + r"\.downsample\.1\.", r"\1.shortcut.norm."),
        (block + r"\.bn([123])\.", r"\1.conv\2.norm."),
    )


def recognise(keys: Iterable[str], candidates: Iterable[KeyRules]) -> KeyRules | None:
    """The rules among `candidates` whose files have such keys, under the authors' names or ours; None if none fits."""
    keys = list(keys)
    for rules in sorted(candidates, key=lambda rules: len(rules.signature), reverse=True):
        names = [rules.rename(key) for key in keys]
        if rules.signature and all(any(re.search(part, name) for name in names) for part in rules.signature):
            return rules
    return None


def known_rules() -> list[KeyRules]:
    """The key rules of all registered models."""
    rules = [declared(model_class, "key_rules") for model_class in registered_models()]
    return [rule for i, rule in enumerate(rules) if rule is not None and rule not in rules[:i]]


@contextmanager
def accept_partial_weights(accept: bool = True) -> Iterator[None]:
    """Within, models load what fits of any file, and the checkpointer's warnings tell what did not."""
    token = _partial.set(accept)
    try:
        yield
    finally:
        _partial.reset(token)


def register_key_rules(model: nn.Module, rules: KeyRules) -> None:
    """Make `model.load_state_dict`, and so every checkpointer, accept the authors' files and no others.

    Installs a pre-hook that renames keys by `rules`, drops ignorable ones, and raises `ValueError` with what was
    expected and found if the file belongs to another model. A model in training mode also accepts a file with nothing
    but a backbone, and one with other numbers of classes: what they leave fresh is trained. In evaluation mode every
    entry must be there. Weights that are not finite are always refused.
    """
    model.register_load_state_dict_pre_hook(partial(_load_hook, rules=rules))


def _load_hook(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any, rules: KeyRules) -> None:
    own = model.state_dict()
    keys = [key for key in state_dict if key.startswith(prefix)]
    for key, name in _new_names(rules, own, keys, prefix).items():
        value = state_dict.pop(key)
        if name in own and value.shape != own[name].shape and _may_be_fresh(model, rules, name):
            # Detectron2 does the same, but finds only entries that need no renaming.
            shapes = tuple(value.shape), tuple(own[name].shape)
            _logger.warning("%s is not loaded: its shape is %s in the file, %s in the model.", name, *shapes)
        elif name in own or not (_BOOKKEEPING.search(name) or _matches(rules.ignored, name)):
            state_dict[prefix + name] = value
    found = {key[len(prefix) :]: state_dict[key] for key in state_dict if key.startswith(prefix)}
    match = _Match(own, found)
    refuse_nonfinite({name: found[name] for name in match.fits})
    kept = {name for name in own if name not in found and _BOOKKEEPING.search(name)}
    if not _partial.get() and not match.is_whole(model, rules):
        original = [key[len(prefix) :] for key in keys]
        if not (model.training and match.is_backbone(rules, original)):
            raise ValueError(match.explain(model, rules, original))
        _logger.info("%s", match.report_backbone(rules))
        kept = own.keys() - match.fits
        for name in match.unknown:
            del state_dict[prefix + name]
    for name in kept:
        state_dict[prefix + name] = own[name]


def _may_be_fresh(model: nn.Module, rules: KeyRules, name: str) -> bool:
    return _partial.get() or (model.training and _matches(rules.optional, name))


def refuse_nonfinite(weights: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` with the names of those `weights` that have NaN or infinite values."""
    tensors = {name: torch.as_tensor(value) for name, value in weights.items()}
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"These weights of the checkpoint are NaN or infinite: {sample(sorted(broken))}. Was it saved after the "
            "training had diverged? Take an older one."
        )


def _new_names(rules: KeyRules, own: Iterable[str], keys: list[str], prefix: str) -> dict[str, str]:
    """Our name for each of `keys`. Those of an ImageNet file, which has no detector around it, go to the backbone."""
    names = {key: rules.rename(key[len(prefix) :]) for key in keys}
    if not any(name in own for name in names.values()):
        for backbone in (rules.backbone,) if isinstance(rules.backbone, str) else rules.backbone:
            names = {key: backbone + name if backbone + name in own else name for key, name in names.items()}
    return names


class _Match:
    """What a file has of a model.

    Attributes:
        expected: names of the model's entries, without those that carry no information.
        fits: names with the right shape, misshaped: with another one, unknown: in the file only.
    """

    def __init__(self, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
        shared = own.keys() & found.keys()
        self.expected = {name for name in own if not _BOOKKEEPING.search(name)}
        self.fits = {name for name in shared if own[name].shape == found[name].shape}
        self.misshaped, self.unknown = shared - self.fits, found.keys() - shared

    def missing(self, model: nn.Module, rules: KeyRules) -> list[str]:
        """The expected names that are neither found nor may start anew."""
        return sorted(name for name in self.expected - self.fits if not _may_be_fresh(model, rules, name))

    def is_whole(self, model: nn.Module, rules: KeyRules) -> bool:
        """Whether the file is the model's."""
        return not (self.misshaped or self.unknown or self.missing(model, rules))

    def is_backbone(self, rules: KeyRules, keys: Iterable[str]) -> bool:
        """Whether a file, whose own names are `keys`, has nothing but a backbone and a classifier.

        The names of an ImageNet file begin at the network, those of a detector at its parts.
        """
        if self.misshaped or not self.fits or not all(name.startswith(rules.backbone) for name in self.fits):
            return False
        if not any("backbone." in key for key in keys):
            return True
        # Also stages that the model does not have: res5 beside res4.
        parts = {part.rstrip("0123456789") for name in self.fits for part in name.split(".")}
        others = (name for name in self.unknown if name.split(".")[0].rstrip("0123456789") not in parts)
        return all(_CLASSIFIER.search(name) for name in others)

    def report_backbone(self, rules: KeyRules) -> str:
        """A line that says what a backbone's file fills, and what not."""
        fresh = self.expected - self.fits
        lacking = sorted(name for name in fresh if name.startswith(rules.backbone))
        return (
            f"This file has weights of a backbone only: it fills {len(self.fits & self.expected)} entries of "
            f"{rules.model}; {len(fresh)} start anew, in {', '.join(sorted({name.split('.')[0] for name in fresh}))} "
            f"(of the backbone: {sample(lacking)})."
        )

    def explain(self, model: nn.Module, rules: KeyRules, keys: Iterable[str]) -> str:
        """What was expected and found, for an error; `keys` are the file's own names."""
        origin = recognise(keys, known_rules())
        looks = f" It looks like a file of {origin.model} ({origin.authors})." if origin not in (None, rules) else ""
        purpose = "" if model.training else " A model in evaluation mode needs every entry."
        return (
            f"This checkpoint does not belong to the {rules.model} that was built: the model expects "
            f"{len(self.expected)} entries, {len(self.fits & self.expected)} of them were found. Missing, or of "
            f"another shape: {sample(self.missing(model, rules))}. In the file but not in the model: "
            f"{sample(sorted(self.unknown))}.{looks}{purpose} Check that MODEL.WEIGHTS and the config file name the "
            f"same model (backbone, norm, heads, number of classes). {PARTIAL_HINT}"
        )


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def sample(names: list[str], count: int = 4) -> str:
    """The first names of a list, for a message."""
    if not names:
        return "none"
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
