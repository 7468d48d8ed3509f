"""Mask scoring: a head that predicts the IoU of each mask with its object (Mask Scoring R-CNN, arXiv 1903.00241)."""

import math

import numpy as np
import pycocotools.mask as mask_util
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, PolygonMasks
from fvcore.nn import weight_init
from torch import Tensor, nn

from pentamask.common import at_least_float32, check_choice, mean_count


class MaskIoUHead(nn.Module):
    """Convolutions over the RoI's features and its mask, the last with stride 2, and three linear layers."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        resolution: int,
        num_classes: int,
        channels: int = 256,
        num_convs: int = 4,
        fc_channels: int = 1024,
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            in_channels: of the RoI features.
            resolution: their height and width, an even number; half of the masks'.
            num_classes: classes K without background.
            channels, num_convs: of the convolutions.
            fc_channels: of the two hidden linear layers.
            loss_weight: factor of `loss_maskiou`.
        """
        super().__init__()
        self.loss_weight = loss_weight
        self.convs: list[nn.Module] = []
        for i in range(1, num_convs + 1):
            conv = nn.Conv2d(
                in_channels + 1 if i == 1 else channels, channels, 3, 2 if i == num_convs else 1, padding=1
            )
            weight_init.c2_msra_fill(conv)
            self.add_module(f"maskiou_fcn{i}", conv)
            self.convs.append(conv)
        self.maskiou_fc1 = nn.Linear(channels * (resolution // 2) ** 2, fc_channels)
        self.maskiou_fc2 = nn.Linear(fc_channels, fc_channels)
        self.maskiou = nn.Linear(fc_channels, num_classes)
        weight_init.c2_msra_fill(self.maskiou_fc1)
        weight_init.c2_msra_fill(self.maskiou_fc2)
        nn.init.normal_(self.maskiou.weight, std=0.01)
        nn.init.zeros_(self.maskiou.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Args: input_shape: of the pooled mask features."""
        node = cfg.MODEL.ROI_MASKIOU_HEAD
        check_choice("MODEL.ROI_MASKIOU_HEAD.NAME", node.NAME, ("MaskIoUHead",))
        return {
            "in_channels": input_shape.channels,
            "resolution": input_shape.height,
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "channels": node.CONV_DIM,
            "num_convs": node.NUM_CONV,
            "loss_weight": cfg.MODEL.MASKIOU_LOSS_WEIGHT,
        }

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """
        Args:
            features: (R, C, S, S), the input of the mask head.
            masks: (R, 1, 2 S, 2 S) probabilities of one class each.

        Returns:
            (R, K) predicted mask IoU by class, not limited to [0, 1].
        """
        x = torch.cat((features, F.max_pool2d(masks, 2)), dim=1)
        for conv in self.convs:
            x = F.relu(conv(x))
        x = F.relu(self.maskiou_fc1(x.flatten(1)))
        return self.maskiou(F.relu(self.maskiou_fc2(x)))

    def loss(self, pred_ious: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
        """Half the mean squared error over the RoIs of all workers with a target above 0, times the weight.

        Args:
            pred_ious: (R, K) output of `forward`.
            classes: (R,) ground-truth classes.
            targets: (R,) see `mask_iou_targets`.
        """
        positive = (targets > 0).nonzero()[:, 0]
        pred = at_least_float32(pred_ious)[positive, classes[positive]]
        total = F.mse_loss(pred, targets[positive].to(pred.dtype), reduction="sum")
        return self.loss_weight * 0.5 * total / mean_count((targets > 0).sum())


@torch.no_grad()
def mask_iou_targets(selected_logits: Tensor, gt_masks: Tensor, shares: Tensor) -> Tensor:
    """IoU of each predicted mask with its whole object, of which the RoI may show a part only.

    Args:
        selected_logits: (R, S, S) logits of the ground-truth class.
        gt_masks: (R, S, S) bool, the object within the RoI.
        shares: (R,) float64, see `inside_shares`.

    Returns:
        (R,) float64 in [0, 1].
    """
    pred_masks = selected_logits > 0
    inside = (pred_masks & gt_masks).sum(dim=(1, 2))
    whole = gt_masks.sum(dim=(1, 2)) / shares
    return inside / (pred_masks.sum(dim=(1, 2)) + whole - inside).clamp(min=1)


@torch.no_grad()
def inside_shares(masks: PolygonMasks | BitMasks, boxes: Tensor) -> Tensor:
    """The share of each object's area that lies within its RoI, at least 1e-10.

    As in the released code the RoI counts from its corner on with height and width cut to whole pixels, and
    overlapping polygons of one object count twice.

    Args:
        masks: R objects.
        boxes: (R, 4) RoIs, XYXY in the masks' pixels.

    Returns:
        (R,) float64 on the device of `boxes`.

    Raises:
        TypeError: the masks are of another type.
    """
    # In the precision of the boxes, which decides how a length near a whole number is cut.
    corners, sizes = boxes[:, :2].tolist(), (boxes[:, 2:] - boxes[:, :2]).int().tolist()
    if isinstance(masks, PolygonMasks):
        areas = [_polygon_area_inside(*args) for args in zip(masks.polygons, corners, sizes)]
        whole, inside = masks.area(), torch.tensor(areas, dtype=torch.float64)
    elif isinstance(masks, BitMasks):
        whole = masks.tensor.sum(dim=(1, 2))
        counts = [_bitmask_area_inside(*args) for args in zip(masks.tensor, corners, sizes)]
        inside = torch.stack(counts) if counts else whole
    else:
        raise TypeError(f"CenterMask needs gt_masks as PolygonMasks or BitMasks, got {type(masks).__name__}.")
    whole, inside = whole.to(boxes.device, torch.float64), inside.to(boxes.device, torch.float64)
    # 0 / 0, an object without area, counts as outside.
    return (inside / whole).nan_to_num(nan=0.0).clamp(1e-10, 1)


def _polygon_area_inside(polygons: list[np.ndarray], corner: list[float], size: list[int]) -> float:
    """Pixels of the parts within the box of `size` (width, height) at `corner` (x, y), each part by itself."""
    parts = [(part.reshape(-1, 2) - corner).ravel() for part in polygons]
    return float(mask_util.area(mask_util.frPyObjects(parts, size[1], size[0])).sum())


def _bitmask_area_inside(mask: Tensor, corner: list[float], size: list[int]) -> Tensor:
    """Number of the (H, W) mask's pixels with centres within the box."""
    left, top = (math.ceil(x - 0.5) for x in corner)
    rows = slice(max(top, 0), max(top + size[1], 0))
    return mask[rows, max(left, 0) : max(left + size[0], 0)].sum()
