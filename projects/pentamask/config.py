"""All configuration keys of pentamask."""

import logging

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from pentamask.backbones.config import add_backbone_config
from pentamask.common import get_key
from pentamask.data.config import add_data_config
from pentamask.plugin import declared, registered_models
from pentamask.solver import add_solver_config


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
    for name, model_class in META_ARCH_REGISTRY:
        theirs = declared(model_class, "authors_names")
        if theirs and all(get_key(cfg, key) == value for key, value in theirs.items()):
            cfg.MODEL.META_ARCHITECTURE = name
            settings = ", ".join(f"{key} {value}" for key, value in theirs.items())
            logging.getLogger(__name__).info("A config of the authors, with %s: building %s.", settings, name)
            return
