"""Mask R-CNN for export: Detectron2's RPN and RoI heads in steps of fixed size."""

from typing import Any

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, Res5ROIHeads, StandardROIHeads
from torch import Tensor, nn

from pentamask.common import at_least_float32, vector_of_sizes
from pentamask.graph import (
    Graph,
    area_levels,
    class_wise_nms,
    pool_levels,
    replace_batch_norms,
    rois_of,
    top_candidates,
)


class MaskRCNNGraph(Graph):
    """Boxes and masks within them."""

    mask_kind = "roi"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        heads = model.roi_heads
        if type(model.proposal_generator) is not RPN:
            raise ValueError(f"Mask R-CNN's export knows RPN, not {type(model.proposal_generator).__name__}.")
        if type(heads) not in (StandardROIHeads, Res5ROIHeads) or type(heads.box_predictor) is not FastRCNNOutputLayers:
            raise ValueError(
                f"Mask R-CNN's export knows StandardROIHeads and Res5ROIHeads with FastRCNNOutputLayers, not "
                f"{type(heads).__name__} with {type(getattr(heads, 'box_predictor', None)).__name__}: "
                "set MODEL.ROI_HEADS.NAME."
            )
        if getattr(heads, "keypoint_on", False):
            raise ValueError("Mask R-CNN with key points cannot be exported: set MODEL.KEYPOINT_ON False.")
        replace_batch_norms(heads)

    @property
    def max_detections(self) -> int:
        return self.model.roi_heads.box_predictor.test_topk_per_image

    def dense(self, images: Tensor) -> Any:
        features = self.model.backbone(images)
        rpn = self.model.proposal_generator
        maps = [features[name] for name in rpn.in_features]
        logits, deltas = rpn.rpn_head(maps)
        box_dim = rpn.anchor_generator.box_dim
        levels = []
        for anchors, x, delta in zip(rpn.anchor_generator(maps), logits, deltas):
            delta = delta.unflatten(1, (-1, box_dim)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            levels.append((anchors.tensor, x.permute(0, 2, 3, 1).flatten(1), delta))
        return features, levels

    def detect(self, dense: Any, n: int, size: tuple[int, int]) -> dict[str, Tensor]:
        features, levels = dense
        limit = vector_of_sizes([size[1], size[0]], levels[0][0]).repeat(2)
        proposals = self.propose(levels, n, limit)
        heads = self.model.roi_heads
        if isinstance(heads, Res5ROIHeads):
            pooled = heads.res5(self.pool(heads.pooler, heads.in_features, features, proposals, n))
            logits, deltas = heads.box_predictor(pooled.mean(dim=[2, 3]))
        else:
            pooled = self.pool(heads.box_pooler, heads.box_in_features, features, proposals, n)
            logits, deltas = heads.box_predictor(heads.box_head(pooled))
        boxes, scores, classes = self.select(proposals, logits, deltas, limit)
        if isinstance(heads, Res5ROIHeads):
            pooled = heads.res5(self.pool(heads.pooler, heads.in_features, features, boxes, n))
        else:
            pooled = self.pool(heads.mask_pooler, heads.mask_in_features, features, boxes, n)
        masks = class_masks(heads.mask_head, heads.mask_head.layers(pooled), classes)
        return {"boxes": boxes, "scores": scores, "classes": classes, "masks": masks}

    def propose(self, levels: list[tuple[Tensor, Tensor, Tensor]], n: int, limit: Tensor) -> Tensor:
        """Boxes (R, 4) of RPN, as `find_top_rpn_proposals` selects them."""
        rpn, parts = self.model.proposal_generator, []
        for number, (anchors, logits, deltas) in enumerate(levels):
            scores, index = top_candidates(logits[n], rpn.pre_nms_topk[False], missing=float("-inf"))
            boxes = rpn.box2box_transform.apply_deltas(deltas[n][index], anchors[index])
            parts.append((boxes, scores, torch.full_like(index, number)))
        boxes, scores, numbers = (torch.cat(part) for part in zip(*parts))
        finite = boxes.isfinite().all(dim=1) & scores.isfinite()
        boxes = clip(boxes, limit)
        sides = boxes[:, 2:] - boxes[:, :2]
        kept = (finite & (sides > rpn.min_box_size).all(dim=1)).nonzero()[:, 0]
        boxes, scores, numbers = boxes[kept], scores[kept], numbers[kept]
        kept = class_wise_nms(boxes, scores, numbers, rpn.nms_thresh)
        return boxes[kept[: rpn.post_nms_topk[False]]]

    @staticmethod
    def pool(pooler: Any, names: list[str], features: dict[str, Tensor], boxes: Tensor, n: int) -> Tensor:
        """Features of boxes (R, 4), as Detectron2's `ROIPooler` pools them."""
        maps, rois = [features[name] for name in names], rois_of(boxes, n)
        if len(maps) == 1:
            return pooler.level_poolers[0](maps[0], rois)
        return pool_levels(pooler.level_poolers, maps, rois, area_levels(pooler, boxes))

    def select(self, proposals: Tensor, logits: Tensor, deltas: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes of the detections, as `fast_rcnn_inference_single_image` selects them."""
        predictor = self.model.roi_heads.box_predictor
        logits = at_least_float32(logits)
        probs = logits.sigmoid() if predictor.use_sigmoid_ce else logits.softmax(dim=-1)
        boxes = predictor.box2box_transform.apply_deltas(deltas, proposals)
        finite = boxes.isfinite().all(dim=1) & probs.isfinite().all(dim=1)
        boxes = clip(boxes.unflatten(1, (-1, 4)), limit)
        above = (probs[:, :-1] > predictor.test_score_thresh) & finite[:, None]
        row, classes = above.nonzero().unbind(1)
        boxes = boxes[row, 0] if boxes.shape[1] == 1 else boxes[row, classes]
        scores = probs[row, classes]
        kept = class_wise_nms(boxes, scores, classes, predictor.test_nms_thresh)
        if predictor.test_topk_per_image >= 0:
            kept = kept[: predictor.test_topk_per_image]
        return boxes[kept], scores[kept], classes[kept]


def clip(boxes: Tensor, limit: Tensor) -> Tensor:
    """Boxes (..., 4) within the picture; `limit` (4,): width, height, width, height."""
    return torch.minimum(boxes.clamp(min=0), limit)


def class_masks(head: nn.Module, logits: Tensor, classes: Tensor) -> Tensor:
    """Probabilities (R, S, S) of each RoI's class from (R, C, S, S) logits."""
    probs = logits.softmax(dim=1) if getattr(head, "softmax", False) else logits.sigmoid()
    if probs.shape[1] == 1:
        return probs[:, 0]
    rows = torch.arange(classes.shape[0], device=classes.device)
    return probs[rows, classes]
