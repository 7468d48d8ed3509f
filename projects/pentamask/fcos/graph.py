"""FCOS for export: raw predictions of a batch, then the detections of a picture in steps of fixed size."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pentamask.common import at_least_float32
from pentamask.graph import Graph, class_wise_nms, top_candidates

from .fcos import FCOS
from .head import FCOSOutputs


class Selected(NamedTuple):
    """Detections of one picture, best first.

    Attributes:
        boxes: (n, 4) XYXY in pixels, not clipped.
        scores: (n,).
        classes: (n,) int64.
        cells: (n,) int64, number of the cell that found them, level by level, row by row.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    cells: Tensor


def predict(fcos: FCOS, features: dict[str, Tensor]) -> FCOSOutputs:
    """The raw predictions for a batch, in float32 where they are compared."""
    outputs = fcos.fcos_head([features[name] for name in fcos.in_features])
    logits, reg, ctrness = ([at_least_float32(x) for x in xs] for xs in outputs[:3])
    return FCOSOutputs(logits, reg, ctrness, outputs.box_features)


def select(fcos: FCOS, outputs: FCOSOutputs, n: int) -> Selected:
    """What `FCOS.detect` finds in picture `n`, except that exactly `post_nms_topk` are kept where scores tie."""
    limits, levels, start = fcos.test_limits, [], 0
    for level, points in enumerate(fcos.locations(outputs)):
        probs = outputs.logits[level][n].flatten(1).t().sigmoid()
        scores = probs * outputs.ctrness[level][n].flatten(1).t().sigmoid()
        above = (scores if fcos.thresh_with_ctr else probs) > limits.score_thresh
        found, index = top_candidates(torch.where(above, scores, -1.0).flatten(), limits.pre_nms_topk)
        index, classes = index // fcos.num_classes, index % fcos.num_classes
        distances = outputs.reg[level][n].flatten(1).t()[index] * fcos.strides[level]
        boxes = torch.cat((points[index] - distances[:, :2], points[index] + distances[:, 2:]), dim=1)
        levels.append(Selected(boxes, found, classes, start + index))
        start = start + points.shape[0]
    candidates = Selected(*(torch.cat(parts) for parts in zip(*levels)))
    candidates = _take(candidates, (candidates.scores >= 0).nonzero()[:, 0])
    if fcos.nms_thresh > 0:
        kept = class_wise_nms(candidates.boxes, candidates.scores, candidates.classes, fcos.nms_thresh)
    else:
        kept = candidates.scores.argsort(descending=True)
    if limits.post_nms_topk > 0:
        kept = kept[: limits.post_nms_topk]
    selected = _take(candidates, kept)
    return selected._replace(scores=selected.scores.sqrt())


def _take(candidates: Selected, index: Tensor) -> Selected:
    return Selected(*(field[index] for field in candidates))


class FCOSGraph(Graph):
    """Boxes only."""

    @property
    def max_detections(self) -> int:
        return self.model.proposal_generator.test_limits.post_nms_topk

    def dense(self, images: Tensor) -> Any:
        return predict(self.model.proposal_generator, self.model.backbone(images))

    def detect(self, dense: Any, n: int, size: tuple[int, int]) -> dict[str, Tensor]:
        found = select(self.model.proposal_generator, dense, n)
        return {"boxes": found.boxes, "scores": found.scores, "classes": found.classes}
