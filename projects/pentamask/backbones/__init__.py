"""Backbones that Detectron2 lacks; importing registers their builders."""

from .fpn import build_fpn
from .pvt import build_pvt_v2_backbone
from .swin import build_swin_backbone

__all__ = ["build_fpn", "build_pvt_v2_backbone", "build_swin_backbone"]
