"""Panoptic SegFormer (arXiv 2109.03814)."""

from .config import add_panoptic_segformer_config
from .merging import MergeOptions, merge
from .meta_arch import PanopticSegFormer

__all__ = ["MergeOptions", "PanopticSegFormer", "add_panoptic_segformer_config", "merge"]
