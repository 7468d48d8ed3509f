"""Configuration keys of BlendMask."""

from detectron2.config import CfgNode

from pentamask.backbones.config import add_backbone_config
from pentamask.common import add_defaults, ignore_keys
from pentamask.fcos.config import add_fcos_config


def add_blendmask_config(cfg: CfgNode) -> None:
    """Add the keys of BlendMask and of the FCOS below it to `cfg`, in place; set keys are kept."""
    add_backbone_config(cfg)
    add_fcos_config(cfg)
    add_defaults(
        cfg.MODEL,
        BLENDMASK=dict(
            # Attention maps are ATTN_SIZE x ATTN_SIZE, masks BOTTOM_RESOLUTION x BOTTOM_RESOLUTION.
            ATTN_SIZE=14,
            BOTTOM_RESOLUTION=56,
            # How attention is upsampled: "bilinear" or "nearest".
            TOP_INTERP="bilinear",
            POOLER_TYPE="ROIAlignV2",
            POOLER_SAMPLING_RATIO=1,
            # 1 / stride of the bases, which follows from BASIS_MODULE.IN_FEATURES; if given, it must agree.
            POOLER_SCALES=(),
            INSTANCE_LOSS_WEIGHT=1.0,
            # Add the bases, and the auxiliary semantic map, to the results.
            VISUALIZE=False,
        ),
        BASIS_MODULE=dict(
            NAME="ProtoNet",
            NUM_BASES=4,
            CONVS_DIM=128,
            IN_FEATURES=["p3", "p4", "p5"],
            NORM="SyncBN",
            NUM_CONVS=3,
            # Auxiliary semantic loss on the first of IN_FEATURES. Its stride is COMMON_STRIDE, if that is not 0, and it
            # has the classes of MODEL.FCOS, if NUM_CLASSES is 0.
            LOSS_ON=False,
            LOSS_WEIGHT=0.3,
            COMMON_STRIDE=0,
            NUM_CLASSES=0,
            # Where prepared semantic maps lie: "coco" or "lvis" (only read if they exist).
            ANN_SET="coco",
        ),
    )
    ignore_keys(cfg, "MODEL.TOP_MODULE")  # of AdelaiDet's other models
