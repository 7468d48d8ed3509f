"""What CenterMask predicts for each box of FCOS: a mask and its score, and key points."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import ROIHeads, build_keypoint_head, build_mask_head, select_foreground_proposals
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference
from detectron2.modeling.roi_heads.roi_heads import select_proposals_with_visible_keypoints
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from pentamask.common import register

from .config import DEFAULT_CLASS_COUNT
from .mask_head import mask_loss, mask_targets, select_masks
from .mask_iou_head import MaskIoUHead, inside_shares, mask_iou_targets
from .pooler import AdaptiveROIPooler


@register(ROI_HEADS_REGISTRY)
class CenterROIHeads(ROIHeads):
    """Detectron2's `ROIHeads` with mask, mask-IoU and key point heads on the boxes of FCOS.

    Attributes:
        mask_on, keypoint_on: whether to predict masks (and their scores) and key points; test-time augmentation
            switches them off for a while.
    """

    # Given where `mask_on`, `keypoint_on`, else None.
    mask_in_features: Any
    mask_pooler: Any
    mask_head: Any
    maskiou_head: Any
    keypoint_in_features: Any
    keypoint_pooler: Any
    keypoint_head: Any

    @configurable
    def __init__(
        self,
        *,
        mask_in_features: list[str] | None = None,
        mask_pooler: AdaptiveROIPooler | None = None,
        mask_head: nn.Module | None = None,
        maskiou_head: MaskIoUHead | None = None,
        keypoint_in_features: list[str] | None = None,
        keypoint_pooler: AdaptiveROIPooler | None = None,
        keypoint_head: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        """
        Args:
            mask_in_features, mask_pooler, mask_head: features, pooling and Detectron2 mask head, or None.
            maskiou_head: scores the masks, or None.
            keypoint_in_features, keypoint_pooler, keypoint_head: the same for key points, or None.
            kwargs: see `ROIHeads`.
        """
        super().__init__(**kwargs)
        self.mask_on = mask_head is not None
        self.mask_in_features, self.mask_pooler, self.mask_head = mask_in_features, mask_pooler, mask_head
        self.maskiou_head = maskiou_head
        self.keypoint_on = keypoint_head is not None
        self.keypoint_in_features, self.keypoint_pooler = keypoint_in_features, keypoint_pooler
        self.keypoint_head = keypoint_head

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Args: input_shape: of the backbone's features."""
        cfg = _with_class_count(cfg)
        args = super().from_config(cfg)
        if cfg.MODEL.MASK_ON:
            names = cfg.MODEL.ROI_HEADS.IN_FEATURES
            pooler, shape = _build_pooler(cfg.MODEL.ROI_MASK_HEAD, names, input_shape)
            args.update(mask_in_features=names, mask_pooler=pooler, mask_head=build_mask_head(cfg, shape))
            if cfg.MODEL.MASKIOU_ON:
                args["maskiou_head"] = MaskIoUHead(cfg, shape)
        if cfg.MODEL.KEYPOINT_ON:
            names = cfg.MODEL.ROI_KEYPOINT_HEAD.IN_FEATURES
            pooler, shape = _build_pooler(cfg.MODEL.ROI_KEYPOINT_HEAD, names, input_shape)
            args.update(
                keypoint_in_features=names, keypoint_pooler=pooler, keypoint_head=build_keypoint_head(cfg, shape)
            )
        return args

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: not used; the instances know their image's size.
            features: name -> (N, C, H, W).
            proposals: per image; in training with proposal_boxes and objectness_logits, else FCOS's detections.
            targets: ground truth per image, in training.

        Returns:
            In training the sampled proposals and the losses `loss_mask`, `loss_maskiou` and `loss_keypoint`, as
            configured. In inference the detections with their masks, and no losses.
        """
        if not self.training:
            return self.forward_with_given_boxes(features, proposals), {}
        if not (self.mask_on or self.keypoint_on):
            return proposals, {}
        proposals, _ = select_foreground_proposals(
            self.label_and_sample_proposals(proposals, targets), self.num_classes
        )
        losses = self._mask_losses(features, proposals) if self.mask_on else {}
        if self.keypoint_on:
            instances = select_proposals_with_visible_keypoints(proposals)
            boxes = [x.proposal_boxes for x in instances]
            pooled = _pool(self.keypoint_pooler, features, self.keypoint_in_features, boxes, instances)
            losses.update(self.keypoint_head(pooled, instances))
        return proposals, losses

    def forward_with_given_boxes(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add to instances with pred_boxes and pred_classes what the heads predict for the boxes.

        Returns:
            `instances` with pred_masks (n, 1, S, S) probabilities; of a model with mask scoring and instances with
            scores also mask_scores (n,) = scores * predicted IoU; and pred_keypoints.
        """
        boxes = [x.pred_boxes for x in instances]
        if self.mask_on:
            pooled = _pool(self.mask_pooler, features, self.mask_in_features, boxes, instances)
            mask_rcnn_inference(self.mask_head.layers(pooled), instances)
            if self.maskiou_head is not None:
                self.add_mask_scores(pooled, instances)
        if self.keypoint_on:
            pooled = _pool(self.keypoint_pooler, features, self.keypoint_in_features, boxes, instances)
            self.keypoint_head(pooled, instances)
        return instances

    def add_mask_scores(self, pooled: Tensor, instances: list[Instances]) -> None:
        """Set mask_scores from (R, C, S, S) features of the R instances and their pred_masks, scores, pred_classes."""
        classes = cat([x.pred_classes for x in instances])
        ious = self.maskiou_head(pooled, cat([x.pred_masks for x in instances]))
        ious = ious[torch.arange(classes.shape[0], device=classes.device), classes]
        for x, ious_per_image in zip(instances, ious.split([x.scores.shape[0] for x in instances])):
            x.mask_scores = x.scores * ious_per_image

    def _mask_losses(self, features: dict[str, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        boxes = [x.proposal_boxes for x in proposals]
        pooled = _pool(self.mask_pooler, features, self.mask_in_features, boxes, proposals)
        return self.losses(pooled, self.mask_head.layers(pooled), proposals)

    def losses(self, pooled: Tensor, mask_logits: Tensor, proposals: list[Instances]) -> dict[str, Tensor]:
        """Losses of the masks and their scores.

        Args:
            pooled: (R, C, S, S) features of the R foreground RoIs.
            mask_logits: (R, K, 2 S, 2 S) or, class-agnostic, (R, 1, 2 S, 2 S).
            proposals: per image, with proposal_boxes, gt_classes and gt_masks; R in all.
        """
        proposals = [x for x in proposals if len(x) > 0]  # others lack the gt_ fields
        classes = cat([x.gt_classes for x in proposals]) if proposals else mask_logits.new_zeros(0, dtype=torch.long)
        selected = select_masks(mask_logits, classes)
        gt_masks = mask_targets(proposals, mask_logits.shape[-1]) if proposals else selected > 0
        losses = {"loss_mask": mask_loss(selected, gt_masks) * self.mask_head.loss_weight}
        if self.maskiou_head is not None:
            parts = [inside_shares(x.gt_masks, x.proposal_boxes.tensor) for x in proposals]
            shares = cat(parts) if proposals else selected.new_zeros(0)
            targets = mask_iou_targets(selected, gt_masks, shares)
            ious = self.maskiou_head(pooled, selected.sigmoid()[:, None])
            losses["loss_maskiou"] = self.maskiou_head.loss(ious, classes, targets)
        return losses


def _with_class_count(cfg: CfgNode) -> CfgNode:
    """A copy of `cfg` in which `ROI_HEADS.NUM_CLASSES`, which Detectron2's heads read, is that of FCOS.

    Raises:
        ValueError: it is set to another number.
    """
    count = cfg.MODEL.FCOS.NUM_CLASSES
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES not in (count, DEFAULT_CLASS_COUNT):
        raise ValueError(
            f"MODEL.FCOS.NUM_CLASSES is {count} and MODEL.ROI_HEADS.NUM_CLASSES {cfg.MODEL.ROI_HEADS.NUM_CLASSES}: set "
            "the first to the number of classes without background and leave out the second."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = count
    return cfg


def _build_pooler(
    node: CfgNode, in_features: list[str], input_shape: dict[str, ShapeSpec]
) -> tuple[AdaptiveROIPooler, ShapeSpec]:
    """The pooler that the config node of a head describes, and the shape of what it gives."""
    missing = [name for name in in_features if name not in input_shape]
    if missing:
        raise ValueError(
            f"A head of CenterMask needs the features {missing} (MODEL.ROI_HEADS.IN_FEATURES or "
            f"MODEL.ROI_KEYPOINT_HEAD.IN_FEATURES), the backbone has {list(input_shape)}."
        )
    resolution = node.POOLER_RESOLUTION
    pooler = AdaptiveROIPooler(
        output_size=resolution,
        scales=tuple(1 / input_shape[name].stride for name in in_features),
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=node.POOLER_TYPE,
        assign_criterion=node.ASSIGN_CRITERION,
    )
    return pooler, ShapeSpec(channels=input_shape[in_features[0]].channels, height=resolution, width=resolution)


def _pool(
    pooler: AdaptiveROIPooler,
    features: dict[str, Tensor],
    names: list[str],
    boxes: list[Boxes],
    instances: list[Instances],
) -> Tensor:
    return pooler([features[name] for name in names], boxes, [x.image_size for x in instances])
