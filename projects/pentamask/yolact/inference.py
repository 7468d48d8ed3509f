"""From raw predictions to instances.

P: prior boxes; K: classes without background; k prototypes of h x w pixels; n: detections. Boxes are relative, xyxy.
"""

from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances
from torch import Tensor

from pentamask.common import check_choice, vector_of_sizes
from pentamask.ops.resize_masks import resize_masks

from .anchors import decode_boxes
from .mask_networks import MaskIoUNet
from .masks import assemble_masks, crop_masks
from .nms import cross_class_fast_nms, fast_nms, greedy_nms


class Detections(NamedTuple):
    """Detections of one image, in descending order of score.

    Attributes:
        boxes: (n, 4), not clipped.
        scores: (n,).
        classes: (n,) int64, 0-based.
        coefficients: (n, k).
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    coefficients: Tensor

    def select(self, index: Tensor) -> "Detections":
        """Those of a mask or index."""
        return Detections(*(field[index] for field in self))


class Postprocessor:
    """Detection (threshold, NMS) and mask assembly, with their settings."""

    @configurable
    def __init__(
        self,
        *,
        image_size: int,
        score_thresh: float = 0.05,
        nms_type: str = "fast",
        nms_thresh: float = 0.5,
        nms_topk: int = 200,
        max_detections: int = 100,
        final_score_thresh: float = 0.0,
        crop_masks: bool = True,
        rescore_boxes: bool = False,
    ) -> None:
        """
        Args:
            image_size: side of the network input, in pixels; only greedy NMS depends on it.
            score_thresh: prior boxes take part if their best class scores above it.
            nms_type: "fast", "cross_class" or "batched" (see nms.py).
            nms_thresh, nms_topk: of the NMS; greedy NMS has no top-k. A top-k below `max_detections` is raised to it.
            max_detections: limit for an image.
            final_score_thresh: after NMS keep scores above it; 0 keeps all.
            crop_masks: crop masks to their boxes.
            rescore_boxes: with mask rescoring, use the new score for the box as well.
        """
        check_choice("MODEL.YOLACT.NMS_TYPE", nms_type, ("fast", "cross_class", "batched"))
        self.image_size = image_size
        self.score_thresh = score_thresh
        self.nms_type, self.nms_thresh, self.nms_topk = nms_type, nms_thresh, max(nms_topk, max_detections)
        self.max_detections = max_detections
        self.final_score_thresh = final_score_thresh
        self.crop_masks = crop_masks
        self.rescore_boxes = rescore_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.YOLACT
        return {
            "image_size": node.IMAGE_SIZE,
            "score_thresh": node.SCORE_THRESH_TEST,
            "nms_type": node.NMS_TYPE,
            "nms_thresh": node.NMS_THRESH_TEST,
            "nms_topk": node.NMS_TOPK,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "final_score_thresh": node.FINAL_SCORE_THRESH,
            "crop_masks": node.CROP_MASKS,
            "rescore_boxes": node.MASK_IOU.RESCORE_BOXES,
        }

    def detect(self, loc: Tensor, logits: Tensor, coefficients: Tensor, priors: Tensor) -> Detections:
        """
        Args:
            loc, logits, coefficients: (P, ...) of one image, see `HeadOutputs`.
            priors: (P, 4), (cx, cy, w, h).
        """
        scores = logits.softmax(dim=1)[:, 1:]
        kept = scores.amax(dim=1) > self.score_thresh
        boxes = decode_boxes(loc[kept], priors[kept])
        index, classes, scores = self.nms(boxes, scores[kept].t())
        return Detections(boxes[index], scores, classes, coefficients[kept][index])

    def nms(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The configured NMS of (n, 4) boxes with (K, n) scores: see `fast_nms`."""
        if self.nms_type == "cross_class":
            found = cross_class_fast_nms(boxes, scores, self.nms_thresh, self.nms_topk)
        elif self.nms_type == "fast":
            found = fast_nms(boxes, scores, self.nms_thresh, self.nms_topk)
        else:
            found = greedy_nms(boxes * self.image_size, scores, self.nms_thresh, self.score_thresh)
        index, classes, scores = (part[: self.max_detections] for part in found)
        return index, classes, scores

    def low_masks(self, detections: Detections, prototypes: Tensor) -> Tensor:
        """Mask probabilities (n, h, w), cropped, from the image's prototypes (k, h, w)."""
        masks = assemble_masks(prototypes, detections.coefficients)
        return crop_masks(masks, detections.boxes) if self.crop_masks else masks

    def instances(
        self,
        detections: Detections,
        prototypes: Tensor,
        height: int,
        width: int,
        mask_iou_net: MaskIoUNet | None = None,
    ) -> Instances:
        """Detections in a picture.

        Args:
            detections: of the image.
            prototypes: (k, h, w) of the image.
            height, width: of the result; usually those of the picture that was stretched to the network input.
            mask_iou_net: of YOLACT++.

        Returns:
            `Instances` with pred_boxes in whole pixels, which may be empty if the box lies beside the picture;
            scores; pred_classes; pred_masks (n, height, width) bool; and with `mask_iou_net` mask_scores (n,), score
            times predicted IoU.
        """
        if self.final_score_thresh > 0:
            detections = detections.select(detections.scores > self.final_score_thresh)
        masks = self.low_masks(detections, prototypes)
        result = Instances((height, width))
        result.pred_boxes = Boxes(whole_pixels(detections.boxes, height, width))
        result.scores = detections.scores
        result.pred_classes = detections.classes
        result.pred_masks = resize_masks(masks, height, width)[0]
        if mask_iou_net is not None:
            result.mask_scores = detections.scores * mask_iou_net.scores(masks, detections.classes)
            if self.rescore_boxes:
                result.scores = result.mask_scores
        return result


def whole_pixels(boxes: Tensor, height: int, width: int) -> Tensor:
    """Relative boxes (n, 4) in pixels: each corner is kept within the picture on its own side only, and truncated."""
    size = vector_of_sizes([width, height], boxes)
    scaled = boxes * size.repeat(2)
    low = torch.minimum(scaled[:, :2], scaled[:, 2:]).clamp(min=0)
    high = torch.minimum(torch.maximum(scaled[:, :2], scaled[:, 2:]), size)
    return torch.cat((low, high), dim=1).trunc()
