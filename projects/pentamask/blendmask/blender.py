"""Blending: bases cropped to each box, weighted by the box's attention."""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler, convert_boxes_to_pooler_format
from detectron2.structures import Instances
from torch import Tensor, nn

from pentamask.common import check_choice, derive
from pentamask.fcos import Positives
from pentamask.ops import blend


class Blender(nn.Module):
    """Instance masks from bases and attention maps (BlendMask, section 3.2). It has no parameters."""

    @configurable
    def __init__(
        self,
        *,
        num_bases: int = 4,
        attention_size: int = 14,
        output_size: int = 56,
        spatial_scale: float = 0.25,
        sampling_ratio: int = 1,
        pooler_type: str = "ROIAlignV2",
        interpolation: str = "bilinear",
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            num_bases: K.
            attention_size: side A of the attention maps.
            output_size: side R of the masks.
            spatial_scale: 1 / stride of the bases.
            sampling_ratio, pooler_type: of Detectron2's `ROIPooler`.
            interpolation: of the attention maps, "bilinear" or "nearest".
            loss_weight: of `loss_mask`.
        """
        super().__init__()
        check_choice("MODEL.BLENDMASK.TOP_INTERP", interpolation, ("bilinear", "nearest"))
        self.num_bases = num_bases
        self.attention_size = attention_size
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.interpolation = interpolation
        self.loss_weight = loss_weight
        # The compiled op is the published configuration; others are composed of stock ops.
        published = (pooler_type, sampling_ratio, interpolation) == ("ROIAlignV2", 1, "bilinear")
        self.is_compiled = published
        self.pooler = ROIPooler(output_size, (spatial_scale,), sampling_ratio, pooler_type).level_poolers[0]

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Args: input_shape: of the backbone's features."""
        node = cfg.MODEL.BLENDMASK
        # The bases have twice the resolution of the first feature.
        scale = 2 / input_shape[cfg.MODEL.BASIS_MODULE.IN_FEATURES[0]].stride
        return {
            "num_bases": cfg.MODEL.BASIS_MODULE.NUM_BASES,
            "attention_size": node.ATTN_SIZE,
            "output_size": node.BOTTOM_RESOLUTION,
            "spatial_scale": derive("MODEL.BLENDMASK.POOLER_SCALES", node.POOLER_SCALES, scale),
            "sampling_ratio": node.POOLER_SAMPLING_RATIO,
            "pooler_type": node.POOLER_TYPE,
            "interpolation": node.TOP_INTERP,
            "loss_weight": node.INSTANCE_LOSS_WEIGHT,
        }

    def mask_logits(self, bases: Tensor, rois: Tensor, attention: Tensor) -> Tensor:
        """
        Args:
            bases: (N, K, H, W).
            rois: (n, 5) image index and box, XYXY in input pixels, clipped or not.
            attention: (n, K * A * A) attention logits, channel k * A * A + y * A + x.

        Returns:
            (n, R, R) mask logits.
        """
        attention = self.as_maps(attention)
        if self.is_compiled:
            return blend(bases, rois, attention, self.spatial_scale, self.output_size)
        crops, weights = self.terms(bases, rois, attention)
        return (crops * weights).sum(dim=1)

    def as_maps(self, attention: Tensor) -> Tensor:
        """(n, K * A * A) -> (n, K, A, A)."""
        return attention.view(-1, self.num_bases, self.attention_size, self.attention_size)

    def terms(self, bases: Tensor, rois: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """What is multiplied and added up over K: the bases within the boxes, and the weights, (n, K, R, R) each.

        Args:
            bases, rois: see `mask_logits`.
            attention: (n, K, A, A) logits.
        """
        crops = self.pooler(bases, rois)
        align_corners = False if self.interpolation == "bilinear" else None
        attention = F.interpolate(attention, crops.shape[-2:], mode=self.interpolation, align_corners=align_corners)
        return crops, attention.softmax(dim=1)

    def losses(self, bases: Tensor, positives: Positives, gt_instances: list[Instances]) -> dict[str, Tensor]:
        """`loss_mask`: binary cross-entropy of the mask that every positive location predicts for its object's box.

        Args:
            bases: (N, K, H, W).
            positives: with top_feats (P, K * A * A).
            gt_instances: with gt_boxes and gt_masks (polygons or bitmasks).
        """
        assert positives.top_feats is not None
        if len(positives.gt_inds) == 0:
            # Keeps every parameter in the graph, so that distributed training does not wait for it.
            return {"loss_mask": 0 * (bases.sum() + positives.top_feats.sum())}
        masks = torch.cat(
            [gt.gt_masks.crop_and_resize(gt.gt_boxes.tensor, self.output_size) for gt in gt_instances if len(gt) > 0]
        )
        rois = convert_boxes_to_pooler_format([gt.gt_boxes for gt in gt_instances])
        logits = self.mask_logits(bases, rois[positives.gt_inds], positives.top_feats)
        target = masks[positives.gt_inds].to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(1, 2))
        return {"loss_mask": self.loss_weight * (loss * positives.gt_ctrs).sum() / positives.loss_denorm}

    def inference(self, bases: Tensor, detections: list[Instances]) -> list[Instances]:
        """Give every detection `pred_masks`, (n, 1, R, R) probabilities within its unclipped box.

        Args:
            bases: (N, K, H, W).
            detections: of each image, with pred_boxes and top_feat (n, K * A * A), which is removed.
        """
        attention = torch.cat([detection.top_feat for detection in detections])
        rois = convert_boxes_to_pooler_format([detection.pred_boxes for detection in detections])
        logits = self.mask_logits(bases, rois, attention)
        counts = [
            detection.top_feat.shape[0] for detection in detections
        ]  # len() would be a constant of a traced model
        for detection, masks in zip(detections, logits.sigmoid()[:, None].split(counts)):
            detection.pred_masks = masks
            detection.remove("top_feat")
        return detections
