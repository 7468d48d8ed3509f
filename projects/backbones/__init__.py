"""Backbones that Detectron2 lacks; importing registers their builders."""

from .fpn import build_fpn

__all__ = ["build_fpn"]
