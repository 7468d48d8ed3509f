"""YOLACT for export. All sizes are fixed up to where detections end, because the network's input is."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pentamask.common import vector_of_sizes
from pentamask.graph import Graph, class_wise_nms

from .anchors import decode_boxes
from .inference import Detections
from .nms import fast_nms_of_fixed_size


class YOLACTGraph(Graph):
    """Boxes, masks of the whole picture at the resolution of the prototypes and, of YOLACT++, their scores."""

    mask_kind = "picture"
    min_size = 1  # the network itself stretches the picture

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.extra_outputs = ("mask_scores",) if model.mask_iou_net is not None else ()

    @property
    def max_detections(self) -> int:
        return self.model.postprocessor.max_detections

    def description(self) -> dict[str, Any]:
        return {"whole_pixels": True, "stretches": True}

    def preprocess(self, images: Tensor) -> Tensor:
        side = self.model.image_size
        images = F.interpolate(images.to(self.model.pixel_mean), (side, side), mode="bilinear", align_corners=False)
        return (images - self.model.pixel_mean) / self.model.pixel_std

    def dense(self, images: Tensor) -> Any:
        return self.model.predict(self.model.backbone(images))

    def detect(self, dense: Any, n: int, size: tuple[int, int]) -> dict[str, Tensor]:
        settings, net = self.model.postprocessor, self.model.mask_iou_net
        loc, logits, coefficients = (output[n] for output in dense.outputs)
        scores = logits.softmax(dim=1)[:, 1:]
        boxes = decode_boxes(loc, dense.priors)
        index, classes, scores = self.nms(boxes, scores)
        found = Detections(boxes[index], scores, classes, coefficients[index])
        if settings.final_score_thresh > 0:
            found = found.select((found.scores > settings.final_score_thresh).nonzero()[:, 0])
        masks = settings.low_masks(found, dense.prototypes[n])
        pixels = vector_of_sizes([size[1], size[0]], boxes).repeat(2)
        results = {"boxes": found.boxes * pixels, "scores": found.scores, "classes": found.classes, "masks": masks}
        if net is not None:
            results["mask_scores"] = found.scores * net.scores(masks, found.classes)
            if settings.rescore_boxes:
                results["scores"] = results["mask_scores"]
        return results

    def nms(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Index, classes and scores of the detections among P boxes with (P, K) scores, see `Postprocessor.nms`."""
        settings = self.model.postprocessor
        takes_part = scores.amax(dim=1, keepdim=True) > settings.score_thresh
        scores = torch.where(takes_part, scores, -1.0).t()
        if settings.nms_type == "batched":
            found = self.greedy_nms(boxes, scores)
        elif settings.nms_type == "cross_class":
            best, classes = scores.max(dim=0)
            index, _, best = fast_nms_of_fixed_size(boxes, best[None], settings.nms_thresh, settings.nms_topk)
            found = index, classes[index], best
        else:
            found = fast_nms_of_fixed_size(boxes, scores, settings.nms_thresh, settings.nms_topk)
        index, classes, scores = (part[: settings.max_detections] for part in found)
        return index, classes, scores

    def greedy_nms(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`greedy_nms`, in float32 and of the candidates that can be among the detections."""
        settings = self.model.postprocessor
        classes, index = (scores > settings.score_thresh).nonzero().unbind(1)
        scores = scores[classes, index]
        pixels = boxes[index] * settings.image_size
        lowest = F.pad(pixels, (0, 0, 0, 1)).min()  # with a row of zeros, for there may be no box
        pixels = pixels - lowest + pixels.new_tensor([0.0, 0.0, 1.0, 1.0])
        kept = class_wise_nms(pixels, scores, classes, settings.nms_thresh - 1e-7)
        return index[kept], classes[kept], scores[kept]
