"""Operators (stand-in until the compiled ones land)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align


def blend(bases: Tensor, rois: Tensor, attn: Tensor, spatial_scale: float, output_size: int) -> Tensor:
    """Plain composition of the blender."""
    crops = roi_align(bases, rois.to(bases.dtype), output_size, spatial_scale, 1, True)
    attn = F.interpolate(attn, (output_size, output_size), mode="bilinear", align_corners=False)
    return (crops * attn.softmax(dim=1)).sum(dim=1)


def spatial_attention(x: Tensor, weight: Tensor) -> Tensor:
    """Plain composition of the spatial attention."""
    maps = torch.cat((x.mean(dim=1, keepdim=True), x.max(dim=1, keepdim=True).values), dim=1)
    return x * F.conv2d(maps, weight, padding=weight.shape[-1] // 2).sigmoid()


