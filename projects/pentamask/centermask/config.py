"""Configuration keys of CenterMask."""

from detectron2.config import CfgNode

from pentamask.backbones.config import add_backbone_config
from pentamask.common import add_defaults
from pentamask.fcos.config import add_fcos_config


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
        ROI_MASKIOU_HEAD=dict(CONV_DIM=256, NUM_CONV=4),
    )


def class_count_keys(cfg: CfgNode) -> dict[str, list[str]]:
    """Config keys that must equal the length of a metadata field."""
    keys = {"thing_classes": ["MODEL.FCOS.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES"]}
    if cfg.MODEL.META_ARCHITECTURE == "PanopticCenterMask":
        keys["stuff_classes"] = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES"]
    return keys


# The same in a LazyConfig: keys of its `model`, as far as it has them.
LAZY_CLASS_COUNT_KEYS = {
    "thing_classes": [
        "proposal_generator.num_classes",
        "proposal_generator.fcos_head.num_classes",
        "roi_heads.num_classes",
        "roi_heads.maskiou_head.num_classes",
    ],
    "stuff_classes": ["sem_seg_head.num_classes"],
}
