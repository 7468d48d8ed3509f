"""FCOS, the anchor-free detector that BlendMask and CenterMask are built on."""

from .config import add_fcos_config
from .detector import FCOS_CLASS_COUNT, OneStageDetector
from .fcos import FCOS, DetectionLimits, Positives, level_strides
from .head import FCOSHead

__all__ = [
    "FCOS",
    "FCOS_CLASS_COUNT",
    "DetectionLimits",
    "FCOSHead",
    "OneStageDetector",
    "Positives",
    "add_fcos_config",
    "level_strides",
]
