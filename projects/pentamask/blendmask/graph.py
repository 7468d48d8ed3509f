"""BlendMask for export."""

from typing import Any

from torch import Tensor

from pentamask.fcos.decode import top_features
from pentamask.fcos.graph import predict, select
from pentamask.graph import Graph, combination, rois_of


class BlendMaskGraph(Graph):
    """Boxes, masks within them, and of the panoptic model the semantic logits."""

    mask_kind = "roi"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.extra_outputs = ("sem_seg",) if model.panoptic_module is not None else ()

    @property
    def max_detections(self) -> int:
        return self.model.proposal_generator.test_limits.post_nms_topk

    def description(self) -> dict[str, Any]:
        model = self.model
        if model.panoptic_module is None:
            return {}
        return combination(
            model.panoptic_module,
            model.combine_overlap_thresh,
            model.combine_stuff_area_limit,
            model.combine_instances_score_thresh,
        )

    def dense(self, images: Tensor) -> Any:
        features = self.model.backbone(images)
        outputs = predict(self.model.proposal_generator, features)
        head = self.model.panoptic_module
        return outputs, self.model.basis_module(features), head.layers(features) if head else None

    def detect(self, dense: Any, n: int, size: tuple[int, int]) -> dict[str, Tensor]:
        outputs, bases, sem_seg = dense
        fcos = self.model.proposal_generator
        found = select(fcos, outputs, n)
        features = [x[n : n + 1] for x in outputs.box_features]
        attention = top_features(features, self.model.top_layer, found.cells)
        masks = self.model.blender.mask_logits(bases, rois_of(found.boxes, n), attention).sigmoid()
        results = {"boxes": found.boxes, "scores": found.scores, "classes": found.classes, "masks": masks}
        return results if sem_seg is None else {**results, "sem_seg": sem_seg[n]}
