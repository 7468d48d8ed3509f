"""Configuration keys of CenterMask."""

from detectron2.config import CfgNode, get_cfg

from pentamask.backbones.config import add_backbone_config
from pentamask.common import add_defaults
from pentamask.fcos.config import add_fcos_config

# MODEL.ROI_HEADS.NUM_CLASSES has this value if it is not set; then MODEL.FCOS.NUM_CLASSES is used.
DEFAULT_CLASS_COUNT: int = get_cfg().MODEL.ROI_HEADS.NUM_CLASSES


def add_centermask_config(cfg: CfgNode) -> None:
    """Add the keys of CenterMask and of the FCOS below it to `cfg`, in place; set keys are kept."""
    add_backbone_config(cfg)
    add_fcos_config(cfg)
    add_defaults(
        cfg.MODEL,
        # How RoIs are assigned to levels: "ratio" (adaptively, CenterMask eq. 2) or "area" (FPN eq. 1).
        ROI_MASK_HEAD=dict(ASSIGN_CRITERION="area"),
        ROI_KEYPOINT_HEAD=dict(IN_FEATURES=["p2", "p3", "p4", "p5"], ASSIGN_CRITERION="ratio"),
        # Mask scoring: a head that predicts the IoU of each mask.
        MASKIOU_ON=False,
        MASKIOU_LOSS_WEIGHT=1.0,
        ROI_MASKIOU_HEAD=dict(NAME="MaskIoUHead", CONV_DIM=256, NUM_CONV=4),
    )
