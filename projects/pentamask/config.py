"""All configuration keys of pentamask."""

import logging

from detectron2.config import CfgNode

from pentamask.backbones.config import add_backbone_config
from pentamask.data.config import add_data_config
from pentamask.plugin import declared, find_authors_model, registered_models
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
    name = find_authors_model(cfg)
    if name is not None:
        theirs = cfg.MODEL.META_ARCHITECTURE
        cfg.MODEL.META_ARCHITECTURE = name
        logging.getLogger(__name__).info(
            "This config is written for the authors' code: its MODEL.META_ARCHITECTURE %s is %s here.",
            theirs,
            name,
        )
