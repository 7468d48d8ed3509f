"""Configuration keys of YOLACT."""

from detectron2.config import CfgNode

from pentamask.backbones.config import add_backbone_config
from pentamask.common import add_defaults
from pentamask.solver import add_solver_config


def add_yolact_config(cfg: CfgNode) -> None:
    """Add the keys of YOLACT and of its backbones to `cfg`, in place; set keys are kept."""
    add_backbone_config(cfg)
    add_solver_config(cfg)
    # The augmentation of SSD instead of what the other keys of INPUT describe: to a square of MODEL.YOLACT.IMAGE_SIZE.
    add_defaults(cfg.INPUT, SSD_AUGMENTATION=False)
    add_defaults(
        cfg.MODEL,
        YOLACT=dict(
            # Classes without the background.
            NUM_CLASSES=80,
            # Images are stretched to a square of this side, in pixels.
            IMAGE_SIZE=550,
            # Levels that strided convolutions add above those of MODEL.FPN.IN_FEATURES.
            NUM_EXTRA_LEVELS=2,
            NUM_PROTOTYPES=32,
            # Prior boxes: sides in pixels of the network input, one list per level; width / height;
            # SQUARE_ANCHORS makes width and height equal, as in the first released models.
            ANCHOR_SCALES=[[24], [48], [96], [192], [384]],
            ASPECT_RATIOS=[1.0, 0.5, 2.0],
            SQUARE_ANCHORS=True,
            # Batch norm is trained if a GPU's batch has at least this many images, and frozen otherwise.
            BN_MIN_BATCH=6,
            # Matching: IoU from which a prior box is positive, below which it is background; between them, or with
            # more than CROWD_OVERLAP of its area in a crowd, it is neutral.
            POSITIVE_IOU=0.5,
            NEGATIVE_IOU=0.4,
            CROWD_OVERLAP=0.7,
            # Background boxes per positive one in the class loss.
            NEGATIVE_RATIO=3,
            # Positives of an image that the mask loss takes at most.
            MASKS_TO_TRAIN=100,
            BOX_LOSS_WEIGHT=1.5,
            CLASS_LOSS_WEIGHT=1.0,
            MASK_LOSS_WEIGHT=6.125,
            SEMANTIC_LOSS_WEIGHT=1.0,
            # Detection. NMS_TYPE: "fast", "cross_class" (fast, over all classes at once) or "batched" (greedy).
            SCORE_THRESH_TEST=0.05,
            NMS_TYPE="fast",
            NMS_THRESH_TEST=0.5,
            NMS_TOPK=200,
            # Crop masks to their boxes; after NMS keep only scores above FINAL_SCORE_THRESH (0 keeps all).
            CROP_MASKS=True,
            FINAL_SCORE_THRESH=0.0,
            # Mask rescoring (YOLACT++). MIN_AREA: smallest mask that trains it, in prototype pixels; RESCORE_BOXES
            # makes the product of score and mask quality the score of the boxes as well.
            MASK_IOU=dict(ENABLED=False, LOSS_WEIGHT=25.0, MIN_AREA=25, RESCORE_BOXES=False),
        ),
    )
