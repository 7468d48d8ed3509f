"""All configuration keys of pentamask, and the reading of the YAML files that set them."""

import io
import logging
import os
from typing import IO

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from pentamask.backbones.config import add_backbone_config
from pentamask.data.config import add_data_config
from pentamask.plugin import declared, find_authors_model, registered_models
from pentamask.solver import add_solver_config

_MAX_CHARACTERS, _MAX_NODES, _MAX_FILES = 1_000_000, 100_000, 100
# YAML's own, and that of Detectron2's tuples.
_TAGS = {
    *yaml.SafeLoader.yaml_constructors,
    *(f"tag:yaml.org,2002:{name}" for name in ("merge", "value", "python/tuple")),
}


def add_pentamask_config(cfg: CfgNode) -> None:
    """Add the keys of every registered plugin to `cfg`, in place; keys that are already set keep their values.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    add_data_config(cfg)
    add_backbone_config(cfg)
    add_solver_config(cfg)
    for model_class in registered_models():
        declared(model_class, "add_config")(cfg)


def translate_config(cfg: CfgNode) -> None:
    """Name a registered plugin in a config that the paper's authors wrote for their own code, with a line of log.

    Args:
        cfg: changed in place where all of a plugin's `authors_names` hold.
    """
    name = find_authors_model(cfg)
    if name is not None:
        theirs = cfg.MODEL.META_ARCHITECTURE
        cfg.MODEL.META_ARCHITECTURE = name
        logging.getLogger(__name__).info(
            "This config is written for the authors' code: its MODEL.META_ARCHITECTURE %s is %s here.",
            theirs,
            name,
        )


def merge_yaml(cfg: CfgNode, path: str) -> None:
    """As `cfg.merge_from_file(path)`, which runs code if the file says so; here nothing in it, or its bases, can.

    Raises:
        ValueError: the file, or one of its `_BASE_`, has other tags than YAML's own and python/tuple, or is no config.
        Others: as `merge_from_file`.
    """
    opened: list[str] = []

    class Checked(CfgNode):
        @classmethod
        def _open_cfg(cls, filename: str) -> IO[str]:
            opened.append(filename)
            if len(opened) > _MAX_FILES:
                raise ValueError(f"{path} has a _BASE_ that leads back to itself, or more than {_MAX_FILES} of them")
            return io.StringIO(_read_plain_yaml(filename))

    logger = logging.getLogger("fvcore.common.config")
    logger.addFilter(_is_news)
    try:
        Checked.load_yaml_with_base(path, allow_unsafe=True)
        cfg.merge_from_file(path)
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not the warning of tags that may run code: there are none but python/tuple."""
    return "unsafe_load" not in record.getMessage()


def _read_plain_yaml(filename: str) -> str:
    """The text of a YAML file, which has been looked at and is harmless."""
    local = PathManager.get_local_path(filename)
    if not os.path.isfile(local):  # a device or pipe may never end
        raise FileNotFoundError(f"{filename} is not a file")
    with open(local, encoding="utf-8") as file:
        text = file.read(_MAX_CHARACTERS + 1)
    root = yaml.compose(text, Loader=yaml.SafeLoader) if len(text) <= _MAX_CHARACTERS else None
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{filename} does not hold the keys and values of a config")
    left: list[yaml.Node] = [root]
    for _ in range(_MAX_NODES):
        if not left:
            return text
        node = left.pop()
        if node.tag not in _TAGS:
            raise ValueError(
                f"{filename}, line {node.start_mark.line + 1}: the tag {node.tag} is refused, for such tags can run "
                "code. A config has plain values and !!python/tuple only"
            )
        if isinstance(node, yaml.MappingNode):
            left += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
    raise ValueError(f"{filename} is too long for a config, or repeats its aliases too often")
