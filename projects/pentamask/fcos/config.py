"""Configuration keys of FCOS."""

from detectron2.config import CfgNode

from pentamask.common import add_defaults, ignore_keys


def add_fcos_config(cfg: CfgNode) -> None:
    """Add `MODEL.FCOS`, shared by the one-stage detector, BlendMask and CenterMask; set keys are kept."""
    add_defaults(
        cfg.MODEL,
        FCOS=dict(
            # Classes without the background.
            NUM_CLASSES=80,
            IN_FEATURES=["p3", "p4", "p5", "p6", "p7"],
            # They follow from the backbone; a list that is given must agree.
            FPN_STRIDES=[],
            # Head: convolutions shared by both towers, and of each tower.
            NUM_SHARE_CONVS=0,
            NUM_CLS_CONVS=4,
            NUM_BOX_CONVS=4,
            # "GN", "BN", "SyncBN" (one per level) or "none".
            NORM="GN",
            # The last convolution of the class and box towers is deformable.
            USE_DEFORMABLE=False,
            # A learnable factor per level on the box regression.
            USE_SCALE=True,
            # Foreground probability at initialisation.
            PRIOR_PROB=0.01,
            # Box quality branch: "ctrness" (centre-ness) or "iou".
            BOX_QUALITY="ctrness",
            # Targets: upper limits, in pixels, of max(l, t, r, b) for all levels but the last.
            SIZES_OF_INTEREST=[64, 128, 256, 512],
            CENTER_SAMPLE=True,
            # Half side of the centre region, in strides.
            POS_RADIUS=1.5,
            # Losses. LOC_LOSS_TYPE: "giou", "iou" or "linear_iou"; LOSS_NORMALIZER_CLS: "fg", "moving_fg" or "all".
            LOSS_ALPHA=0.25,
            LOSS_GAMMA=2.0,
            LOSS_NORMALIZER_CLS="fg",
            LOSS_WEIGHT_CLS=1.0,
            LOC_LOSS_TYPE="giou",
            # Detection. The threshold applies to the class probability, or with THRESH_WITH_CTR to its product
            # with the box quality; NMS_TH <= 0 switches NMS off.
            THRESH_WITH_CTR=False,
            INFERENCE_TH_TRAIN=0.05,
            INFERENCE_TH_TEST=0.05,
            PRE_NMS_TOPK_TRAIN=1000,
            PRE_NMS_TOPK_TEST=1000,
            NMS_TH=0.6,
            POST_NMS_TOPK_TRAIN=100,
            # Used as long as TEST.DETECTIONS_PER_IMAGE is Detectron2's default, 100; any other value there replaces it.
            POST_NMS_TOPK_TEST=100,
        ),
    )
    ignore_keys(cfg, "MODEL.FCOS.YIELD_PROPOSAL", "MODEL.FCOS.YIELD_BOX_FEATURES", "MODEL.FCOS.USE_RELU")
