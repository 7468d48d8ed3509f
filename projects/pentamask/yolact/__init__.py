"""YOLACT and YOLACT++ (arXiv 1904.02689, 1912.06218)."""

from .config import add_yolact_config
from .fpn import YolactFPN
from .meta_arch import YOLACT
from .nms import cross_class_fast_nms, fast_nms

__all__ = ["YOLACT", "YolactFPN", "add_yolact_config", "cross_class_fast_nms", "fast_nms"]
