"""Configuration keys of the backbones that Detectron2 lacks."""

from detectron2.config import CfgNode

from pentamask.common import add_defaults, ignore_keys


def add_backbone_config(cfg: CfgNode) -> None:
    """Add the keys of our backbones to `cfg.MODEL`, in place; set keys are kept."""
    # In the stages of DEFORM_ON_PER_STAGE, every n-th block is deformable, from the first on.
    # DEFORM_BIAS: their 3x3 convolution has a bias, as in YOLACT++.
    add_defaults(cfg.MODEL.RESNETS, DEFORM_INTERVAL=1, DEFORM_BIAS=False)
    add_defaults(
        cfg.MODEL,
        # What build_fcos_resnet_fpn_backbone of the authors' files makes: MobileNetV2, or a low-pass ResNet, which does
        # not exist here.
        MOBILENET=False,
        BACKBONE=dict(ANTI_ALIAS=False),
        # Levels that stride-2 convolutions add to the FPN: 0, 1 (p6) or 2 (p6, p7).
        FCOS=dict(TOP_LEVELS=2),
        DLA=dict(NORM="FrozenBN"),
        VOVNET=dict(
            CONV_BODY="V-39-eSE",
            NORM="FrozenBN",
            OUT_FEATURES=["stage2", "stage3", "stage4", "stage5"],
            # Stages 2 to 5 whose 3x3 convolutions are deformable: v2 (modulated) or v1, with this many sets of offsets.
            STAGE_WITH_DCN=(False, False, False, False),
            WITH_MODULATED_DCN=False,
            DEFORMABLE_GROUPS=1,
        ),
        # Residual blocks of each stage, here those of Darknet-53.
        DARKNET=dict(BLOCKS=[1, 2, 8, 8, 4], NORM="BN"),
    )
    add_defaults(
        cfg.MODEL,
        PVT=dict(VARIANT="b2", DROP_PATH_RATE=0.1, OUT_FEATURES=["stage2", "stage3", "stage4"]),
        # The defaults are Swin-L's.
        SWIN=dict(
            EMBED_DIM=192,
            DEPTHS=[2, 2, 18, 2],
            NUM_HEADS=[6, 12, 24, 48],
            WINDOW_SIZE=7,
            DROP_PATH_RATE=0.3,
            OUT_FEATURES=["p1", "p2", "p3"],
        ),
    )
    ignore_keys(cfg, "MODEL.DLA.CONV_BODY", "MODEL.DLA.OUT_FEATURES")
    ignore_keys(cfg, "MODEL.VOVNET.OUT_CHANNELS", "MODEL.VOVNET.BACKBONE_OUT_CHANNELS")
