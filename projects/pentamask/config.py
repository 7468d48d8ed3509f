"""All configuration keys of pentamask."""

from detectron2.config import CfgNode

from pentamask.backbones.config import add_backbone_config
from pentamask.data.config import add_data_config
from pentamask.plugin import declared, registered_models


def add_pentamask_config(cfg: CfgNode) -> None:
    """Add the keys of every registered plugin to `cfg`, in place; keys that are already set keep their values.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    add_data_config(cfg)
    add_backbone_config(cfg)
    for model_class in registered_models():
        declared(model_class, "add_config")(cfg)
