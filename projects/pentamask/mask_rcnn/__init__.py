"""Mask R-CNN (arXiv 1703.06870)."""

from .config import add_mask_rcnn_config
from .mask_head import FCNMaskHead, MLPMaskHead
from .meta_arch import MaskRCNN

__all__ = ["FCNMaskHead", "MLPMaskHead", "MaskRCNN", "add_mask_rcnn_config"]
