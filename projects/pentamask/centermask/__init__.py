"""CenterMask, CenterMask-Lite and Panoptic-CenterMask (arXiv 1911.06667)."""

from .config import add_centermask_config
from .mask_head import SpatialAttention, SpatialAttentionMaskHead
from .mask_iou_head import MaskIoUHead
from .meta_arch import CenterMask, PanopticCenterMask
from .pooler import AdaptiveROIPooler
from .roi_heads import CenterROIHeads

__all__ = [
    "AdaptiveROIPooler",
    "CenterMask",
    "CenterROIHeads",
    "MaskIoUHead",
    "PanopticCenterMask",
    "SpatialAttention",
    "SpatialAttentionMaskHead",
    "add_centermask_config",
]
