"""Configuration keys of Panoptic SegFormer."""

from detectron2.config import CfgNode

from pentamask.backbones.config import add_backbone_config
from pentamask.common import add_defaults
from pentamask.solver import add_solver_config


def add_panoptic_segformer_config(cfg: CfgNode) -> None:
    """Add the keys of Panoptic SegFormer and of its optimizer to `cfg`, in place; set keys are kept."""
    add_backbone_config(cfg)
    add_solver_config(cfg)
    add_defaults(
        cfg.MODEL,
        PANOPTIC_SEGFORMER=dict(
            NUM_THING_CLASSES=80,
            NUM_STUFF_CLASSES=53,
            # Backbone maps of strides 8, 16 and 32; a fourth level, of stride 64, is made from the last.
            IN_FEATURES=["res3", "res4", "res5"],
            CHANNELS=256,
            FEEDFORWARD_CHANNELS=1024,
            NUM_HEADS=8,
            # Sampling points per head and level of deformable attention.
            NUM_POINTS=4,
            DROPOUT=0.1,
            NUM_ENCODER_LAYERS=6,
            # Location decoder: thing queries, layers.
            NUM_QUERIES=300,
            NUM_DECODER_LAYERS=6,
            # Mask decoders: blocks before the final one.
            NUM_THING_BLOCKS=4,
            NUM_STUFF_BLOCKS=6,
            # Weights of the losses, and of the same terms in the matching.
            CLASS_WEIGHT=2.0,
            L1_WEIGHT=5.0,
            GIOU_WEIGHT=2.0,
            DICE_WEIGHT=2.0,
            MERGE=dict(
                # "mask_wise" (the paper's), "pixel_argmax" or "maskformer".
                RULE="mask_wise",
                # mask_wise: segments of lower score (class x mask quality squared) are dropped ...
                QUALITY_THRESH_THINGS=0.25,
                QUALITY_THRESH_STUFF=0.25,
                # ... and those of which better ones cover a larger share.
                OVERLAP_THRESH_THINGS=0.4,
                OVERLAP_THRESH_STUFF=0.2,
                # pixel_argmax, maskformer: masks of lower class score do not take part.
                CLASS_THRESH=0.3,
                # maskformer: a segment must keep this share of its mask.
                KEEP_FRACTION=0.8,
            ),
            TEST=dict(PANOPTIC_ON=True, INSTANCE_ON=True, SEMANTIC_ON=True),
        ),
    )
