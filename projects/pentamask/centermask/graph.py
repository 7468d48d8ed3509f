"""CenterMask for export."""

from typing import Any

from detectron2.modeling import PanopticFPN
from torch import Tensor

from pentamask.fcos.graph import Selected, predict, select
from pentamask.graph import Graph, combination, replace_batch_norms, rois_of

from .mask_head import select_masks


class CenterMaskGraph(Graph):
    """Boxes, masks within them, their scores, and of the panoptic model the semantic logits."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if model.roi_heads.keypoint_on:
            raise ValueError("CenterMask with key points cannot be exported: set MODEL.KEYPOINT_ON False.")
        heads = model.roi_heads
        replace_batch_norms(heads)
        self.mask_kind = "roi" if heads.mask_on else None
        scores = ("mask_scores",) if heads.mask_on and heads.maskiou_head is not None else ()
        self.extra_outputs = (*scores, "sem_seg") if isinstance(model, PanopticFPN) else scores

    @property
    def max_detections(self) -> int:
        return self.model.proposal_generator.test_limits.post_nms_topk

    def description(self) -> dict[str, Any]:
        model = self.model
        if not isinstance(model, PanopticFPN):
            return {}
        return combination(
            model.sem_seg_head,
            model.combine_overlap_thresh,
            model.combine_stuff_area_thresh,
            model.combine_instances_score_thresh,
        )

    def dense(self, images: Tensor) -> Any:
        features = self.model.backbone(images)
        head = getattr(self.model, "sem_seg_head", None)
        return predict(self.model.proposal_generator, features), features, head.layers(features) if head else None

    def detect(self, dense: Any, n: int, size: tuple[int, int]) -> dict[str, Tensor]:
        outputs, features, sem_seg = dense
        heads = self.model.roi_heads
        found = select(self.model.proposal_generator, outputs, n)
        results = {"boxes": found.boxes, "scores": found.scores, "classes": found.classes}
        if heads.mask_on:
            results.update(self.masks(features, found, n, size))
        return results if sem_seg is None else {**results, "sem_seg": sem_seg[n]}

    def masks(self, features: dict[str, Tensor], found: Selected, n: int, size: tuple[int, int]) -> dict[str, Tensor]:
        """Masks (n, S, S) of the boxes found, and with mask scoring their scores."""
        heads = self.model.roi_heads
        pooler = heads.mask_pooler
        maps = [features[name] for name in heads.mask_in_features]
        pooled = pooler.pool(maps, rois_of(found.boxes, n), pooler.levels_of(found.boxes, size))
        masks = select_masks(heads.mask_head.layers(pooled), found.classes).sigmoid()
        if heads.maskiou_head is None:
            return {"masks": masks}
        ious = heads.maskiou_head(pooled, masks[:, None]).gather(1, found.classes[:, None])[:, 0]
        return {"masks": masks, "mask_scores": found.scores * ious}
