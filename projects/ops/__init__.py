"""Operators (stand-in until the compiled ones land)."""

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align


def blend(bases: Tensor, rois: Tensor, attn: Tensor, spatial_scale: float, output_size: int) -> Tensor:
    """Plain composition of the blender."""
    crops = roi_align(bases, rois.to(bases.dtype), output_size, spatial_scale, 1, True)
    attn = F.interpolate(attn, (output_size, output_size), mode="bilinear", align_corners=False)
    return (crops * attn.softmax(dim=1)).sum(dim=1)
