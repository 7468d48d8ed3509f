"""All configuration keys of pentamask."""

from detectron2.config import CfgNode

from pentamask.backbones.config import add_backbone_config
from pentamask.blendmask.config import add_blendmask_config
from pentamask.centermask.config import add_centermask_config
from pentamask.data.config import add_data_config
from pentamask.fcos.config import add_fcos_config
from pentamask.mask_rcnn.config import add_mask_rcnn_config
from pentamask.panoptic_segformer.config import add_panoptic_segformer_config
from pentamask.yolact.config import add_yolact_config


def add_pentamask_config(cfg: CfgNode) -> None:
    """Add the keys of every plugin to `cfg`, in place; keys that are already set keep their values.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    add_data_config(cfg)
    add_backbone_config(cfg)
    add_fcos_config(cfg)
    add_blendmask_config(cfg)
    add_centermask_config(cfg)
    add_mask_rcnn_config(cfg)
    add_panoptic_segformer_config(cfg)
    add_yolact_config(cfg)
