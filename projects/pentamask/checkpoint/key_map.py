"""Renaming the keys of an authors' checkpoint while a model loads it, and refusing the file of another model."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

_logger = logging.getLogger(__name__)

# Entries that Detectron2 versions save or leave out without a meaning for the result.
_BOOKKEEPING = re.compile(r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std)$")


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
        optional: keys of the model that a file may lack: layers sized by the number of classes (Detectron2 drops
            them, with a warning, when the sizes differ) and layers that only training needs.
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
    """`KeyRules.renames` from torchvision's names of a ResNet's stages and blocks to Detectron2's.

    Args:
        prefix: of the network in the model, as "backbone.bottom_up."; the file's stages have it too, or none.
    """
    start = re.escape(prefix)
    block = rf"^({start}(?:stem|res\d\.\d+))"
    return (
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


def register_key_rules(model: nn.Module, rules: KeyRules) -> None:
    """Make `model.load_state_dict`, and so every checkpointer, accept the authors' files.

    Installs a pre-hook that renames keys by `rules`, drops ignorable ones and raises `ValueError` with what was
    expected and found if the file belongs to another model. A file with nothing but backbone weights is accepted.
    """
    model.register_load_state_dict_pre_hook(partial(_load_hook, rules=rules))


def _load_hook(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any, rules: KeyRules) -> None:
    own = model.state_dict()
    for key, name in _new_names(rules, own, [key for key in state_dict if key.startswith(prefix)], prefix).items():
        value = state_dict.pop(key)
        if name in own and value.shape != own[name].shape and _matches(rules.optional, name):
            # Detectron2 does the same, but finds only entries that need no renaming.
            shapes = tuple(value.shape), tuple(own[name].shape)
            _logger.warning("%s is not loaded: its shape is %s in the file, %s in the model.", name, *shapes)
        elif name in own or not (_BOOKKEEPING.search(name) or _matches(rules.ignored, name)):
            state_dict[prefix + name] = value
    found = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
    _refuse_other_model(rules, set(own), found)
    for name in own:
        if name not in found and _BOOKKEEPING.search(name):
            state_dict[prefix + name] = own[name]


def _new_names(rules: KeyRules, own: Iterable[str], keys: list[str], prefix: str) -> dict[str, str]:
    """Our name for each of `keys`. Those of an ImageNet file, which has no detector around it, go to the backbone."""
    names = {key: rules.rename(key[len(prefix) :]) for key in keys}
    if not any(name in own for name in names.values()):
        for backbone in (rules.backbone,) if isinstance(rules.backbone, str) else rules.backbone:
            names = {key: backbone + name if backbone + name in own else name for key, name in names.items()}
    return names


def _refuse_other_model(rules: KeyRules, own: set[str], found: set[str]) -> None:
    """Raise `ValueError` unless the renamed keys `found` are those of the model, `own`, or of its backbone."""
    matched = own & found
    if matched and all(name.startswith(rules.backbone) for name in matched):
        return
    missing = sorted(n for n in own - found if not (_BOOKKEEPING.search(n) or _matches(rules.optional, n)))
    unknown = sorted(found - own)
    if not missing and not unknown:
        return
    raise ValueError(
        f"This checkpoint does not belong to the {rules.model} that was built: the model expects {len(own)} entries, "
        f"{len(matched)} of them were found. Missing, or of another shape: {sample(missing)}. "
        f"In the file but not in the model: {sample(unknown)}. Check that MODEL.WEIGHTS and the config file name the "
        "same model (backbone, norm, heads)."
    )


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def sample(names: list[str], count: int = 4) -> str:
    """The first names of a list, for a message."""
    if not names:
        return "none"
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
