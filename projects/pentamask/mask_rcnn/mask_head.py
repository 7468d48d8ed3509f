"""Mask heads: fully convolutional or of fully connected layers, with independent or competing classes."""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from fvcore.nn import weight_init
from torch import Tensor, nn

from pentamask.common import check_choice, register


def softmax_mask_loss(logits: Tensor, instances: list[Instances]) -> Tensor:
    """Per-pixel cross-entropy over all classes and the background (the "softmax" row of Mask R-CNN's Table 2b).

    Args:
        logits: (M, K + 1, S, S), the background last.
        instances: of each image, M in all, with proposal_boxes, gt_classes and gt_masks.
    """
    instances = [x for x in instances if len(x) > 0]
    if not instances:
        return logits.sum() * 0
    masks = cat([x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, logits.shape[-1]) for x in instances])
    classes = cat([x.gt_classes for x in instances])
    target = torch.where(masks.to(logits.device), classes[:, None, None], logits.shape[1] - 1)
    return F.cross_entropy(logits, target)


def softmax_mask_inference(logits: Tensor, instances: list[Instances]) -> None:
    """Add `pred_masks` (m, 1, S, S), the probability of each pixel's being of the predicted class.

    Args:
        logits: (M, K + 1, S, S), the background last.
        instances: of each image, M in all, with pred_classes.
    """
    classes = cat([x.pred_classes for x in instances])
    probs = logits.softmax(dim=1)[torch.arange(classes.shape[0], device=classes.device), classes][:, None]
    for x, masks in zip(instances, probs.split([x.pred_classes.shape[0] for x in instances])):
        x.pred_masks = masks


class _ActivationChoice(BaseMaskRCNNHead):
    """Detectron2's per-class sigmoid, or one softmax over classes and background."""

    softmax: bool

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """
        Args:
            x: (M, C, H, W) pooled features.
            instances: of each image, M in all.

        Returns:
            `{"loss_mask": ...}` in training, else `instances` with `pred_masks` (m, 1, S, S) probabilities.
        """
        if not self.softmax:
            return super().forward(x, instances)
        logits = self.layers(x)
        if self.training:
            return {"loss_mask": self.loss_weight * softmax_mask_loss(logits, instances)}
        softmax_mask_inference(logits, instances)
        return instances


def _num_outputs(cfg: CfgNode) -> dict:
    node, num_classes = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    check_choice("MODEL.ROI_MASK_HEAD.ACTIVATION", node.ACTIVATION, ("sigmoid", "softmax"))
    softmax = node.ACTIVATION == "softmax"
    if softmax and node.CLS_AGNOSTIC_MASK:
        raise ValueError(
            'MODEL.ROI_MASK_HEAD.ACTIVATION "softmax" lets classes compete, so CLS_AGNOSTIC_MASK must be False.'
        )
    return {"num_classes": 1 if node.CLS_AGNOSTIC_MASK else num_classes + softmax, "softmax": softmax}


@register(ROI_MASK_HEAD_REGISTRY)
class FCNMaskHead(_ActivationChoice, MaskRCNNConvUpsampleHead):
    """Detectron2's convolutional mask head (Mask R-CNN, Figure 4) with a choice of the activation."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, softmax: bool = False, **kwargs) -> None:
        """
        Args:
            input_shape: of the pooled features.
            softmax: let classes and background compete; num_classes then counts the background.
            kwargs: of `MaskRCNNConvUpsampleHead`.
        """
        super().__init__(input_shape, **kwargs)
        self.softmax = softmax

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return {**super().from_config(cfg, input_shape), **_num_outputs(cfg)}


@register(ROI_MASK_HEAD_REGISTRY)
class MLPMaskHead(_ActivationChoice):
    """Masks predicted by fully connected layers, twice the size of the pooled features (the "MLP" rows of Table 2e)."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        num_fc: int = 2,
        fc_dim: int = 1024,
        softmax: bool = False,
        **kwargs,
    ) -> None:
        """
        Args:
            input_shape: of the pooled features.
            num_classes: masks per instance; with `softmax` counts the background.
            num_fc, fc_dim: number and width of the hidden layers.
            softmax: let classes and background compete.
            kwargs: of Detectron2's `BaseMaskRCNNHead`.
        """
        super().__init__(**kwargs)
        self.softmax = softmax
        self.mask_shape = (num_classes, 2 * input_shape.height, 2 * input_shape.width)
        dims = [input_shape.channels * input_shape.height * input_shape.width, *[fc_dim] * num_fc]
        self.fcs = nn.ModuleList(nn.Linear(d_in, d_out) for d_in, d_out in zip(dims[:-1], dims[1:]))
        for layer in self.fcs:
            weight_init.c2_xavier_fill(layer)
        self.predictor = nn.Linear(dims[-1], num_classes * self.mask_shape[1] * self.mask_shape[2])
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        node = cfg.MODEL.ROI_MASK_HEAD
        ret = super().from_config(cfg, input_shape)
        return {**ret, "input_shape": input_shape, "num_fc": node.NUM_FC, "fc_dim": node.FC_DIM, **_num_outputs(cfg)}

    def layers(self, x: Tensor) -> Tensor:
        """(M, C, H, W) -> (M, num_classes, 2H, 2W) logits."""
        x = x.flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x))
        return self.predictor(x).view(-1, *self.mask_shape)
