"""Configuration keys of Mask R-CNN beyond Detectron2's."""

from detectron2.config import CfgNode

from pentamask.common import add_defaults


def add_mask_rcnn_config(cfg: CfgNode) -> None:
    """Add the keys of the paper's ablations to `cfg`, in place; set keys are kept.

    Detectron2's own keys choose the rest: `ROI_MASK_HEAD.CLS_AGNOSTIC_MASK`, `ROI_*_HEAD.POOLER_TYPE` (with two
    more types, see `poolers.py`), the backbone.
    """
    add_defaults(
        cfg.MODEL.ROI_MASK_HEAD,
        # "sigmoid": a mask for every class on its own; "softmax": classes and background compete for every pixel.
        ACTIVATION="sigmoid",
        # Hidden layers of MLPMaskHead.
        NUM_FC=2,
        FC_DIM=1024,
    )


def class_count_keys(cfg: CfgNode) -> dict[str, list[str]]:
    """Config keys that must equal the length of a metadata field."""
    return {"thing_classes": ["MODEL.ROI_HEADS.NUM_CLASSES"]}


# The same in a LazyConfig: keys of its `model`, as far as it has them.
LAZY_CLASS_COUNT_KEYS = {
    "thing_classes": ["roi_heads.num_classes", "roi_heads.box_predictor.num_classes"],
}
