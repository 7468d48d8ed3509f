"""Configuration keys of the backbones that Detectron2 lacks."""

from detectron2.config import CfgNode

from pentamask.defaults import add_defaults


def add_backbone_config(cfg: CfgNode) -> None:
    """Add the keys of our backbones to `cfg.MODEL`, in place; set keys are kept."""
    # In the stages of DEFORM_ON_PER_STAGE, every n-th block is deformable, from the first on.
    add_defaults(cfg.MODEL.RESNETS, DEFORM_INTERVAL=1)
    add_defaults(cfg.MODEL, DLA=dict(CONV_BODY="DLA34", NORM="FrozenBN"))
