"""The spatial attention-guided mask head (SAG-Mask)."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from fvcore.nn import weight_init
from torch import Tensor, nn

from pentamask.common import at_least_float32, mean_count, register
from pentamask.ops import spatial_attention
from pentamask.ops.reference import spatial_gate


class SpatialAttention(nn.Module):
    """Weighs every position by a convolution of its mean and maximum over the channels (as in the released code
    the mean comes first)."""

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        weight_init.c2_msra_fill(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return spatial_attention(x, self.conv.weight)

    def gate(self, x: Tensor) -> Tensor:
        """The weight of each position of (N, C, H, W), in 0-1: (N, H, W) float32."""
        return spatial_gate(at_least_float32(x), self.conv.weight)[:, 0]


@register(ROI_MASK_HEAD_REGISTRY)
class SpatialAttentionMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with `SpatialAttention` between the convolutions and the upsampling."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, **kwargs: Any) -> None:
        """Args: as those of `MaskRCNNConvUpsampleHead`."""
        super().__init__(input_shape, **kwargs)
        self.spatialAtt = SpatialAttention()

    def layers(self, x: Tensor) -> Tensor:
        """(R, C, H, W) features -> (R, K, 2 H, 2 W) mask logits by class."""
        for conv in self.conv_norm_relus:
            x = conv(x)
        return self.predictor(self.deconv_relu(self.deconv(self.spatialAtt(x))))


def select_masks(mask_logits: Tensor, classes: Tensor) -> Tensor:
    """The (R, S, S) maps of `classes` (R,) out of (R, K, S, S) logits, or the only ones of a class-agnostic head."""
    if mask_logits.shape[1] == 1:
        return mask_logits[:, 0]
    return mask_logits[torch.arange(classes.shape[0], device=classes.device), classes]


def mask_targets(instances: list[Instances], size: int) -> Tensor:
    """Objects within their RoIs: (R, size, size) bool, of `instances` with R gt_masks and proposal_boxes in all.

    Raises:
        ValueError: the ground truth has no masks.
    """
    if not all(x.has("gt_masks") for x in instances):
        raise ValueError(
            'CenterMask needs "gt_masks" in training: annotate "segmentation", or set MODEL.MASK_ON False for a '
            "box detector."
        )
    return torch.cat([x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, size) for x in instances])


def mask_loss(selected_logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy (Mask R-CNN, section 3) of (R, S, S) logits and bool targets; 0 without RoIs.

    The mean is over the RoIs of all workers, see `mean_count`.
    """
    logits = at_least_float32(selected_logits)
    total = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")
    num_rois = mean_count(torch.tensor(len(targets), device=logits.device))
    return total / (num_rois * logits.shape[1] * logits.shape[2])
