"""Inference as a function of tensors: what a model's plugin hands to export, and the steps that several need."""

from .base import Graph, rois_of
from .masks import paste_masks, resize_masks
from .nms import class_wise_nms, top_candidates
from .norm import replace_batch_norms
from .panoptic import combination
from .pooling import area_levels, pool_levels

__all__ = [
    "Graph",
    "area_levels",
    "class_wise_nms",
    "combination",
    "paste_masks",
    "pool_levels",
    "replace_batch_norms",
    "resize_masks",
    "rois_of",
    "top_candidates",
]
