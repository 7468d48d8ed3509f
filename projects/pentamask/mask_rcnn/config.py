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
