"""Objects of a video keep their identity from frame to frame."""

import torch
from detectron2.structures import BitMasks, Boxes, pairwise_iou
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class BoxTracker:
    """Numbers for objects: those of the last frames are assigned to boxes of their class by the largest sum of IoUs.

    As Detectron2's `IOUWeightedHungarianBBoxIOUTracker`, but by class, and without its loops over all pairs, which take
    longer than drawing.
    """

    def __init__(self, iou_threshold: float = 0.3, lost_frames: int = 15) -> None:
        """
        Args:
            iou_threshold: least IoU of an object's boxes in two frames.
            lost_frames: for how many an object may be hidden.
        """
        self._iou_threshold, self._lost_frames = iou_threshold, lost_frames
        self._boxes, self._classes = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
        self._ids, self._lost = torch.zeros(2, 0, dtype=torch.long)
        self._count = 0

    def update(self, boxes: Tensor, classes: Tensor) -> Tensor:
        """The objects of the next frame.

        Args:
            boxes: (n, 4), XYXY.
            classes: (n,) int64.

        Returns:
            (n,) int64, on the CPU: the number of each, from 0 in the order of their appearance.
        """
        boxes, classes = boxes.cpu().float(), classes.cpu()
        ious = pairwise_iou(Boxes(boxes), Boxes(self._boxes)) * (classes[:, None] == self._classes)
        ious[ious < self._iou_threshold] = 0
        now, before = map(torch.as_tensor, linear_sum_assignment(ious.numpy(), maximize=True))
        same = ious[now, before] > 0
        now, before = now[same], before[same]
        ids = torch.full((len(boxes),), -1)
        ids[now] = self._ids[before]
        num_new = int((ids < 0).sum())
        ids[ids < 0] = torch.arange(self._count, self._count + num_new)
        self._count += num_new
        hidden = torch.ones(len(self._ids), dtype=torch.bool)
        hidden[before] = False
        hidden &= self._lost < self._lost_frames
        self._boxes = torch.cat([boxes, self._boxes[hidden]])
        self._classes = torch.cat([classes, self._classes[hidden]])
        self._ids = torch.cat([ids, self._ids[hidden]])
        self._lost = torch.cat([torch.zeros_like(ids), self._lost[hidden] + 1])
        return ids


class VideoTracker:
    """Writes objects' numbers into a model's output for the frames of a video, in order."""

    def __init__(self) -> None:
        self._instances, self._segments = BoxTracker(), BoxTracker()

    def __call__(self, predictions: dict) -> dict:
        """The output, on the CPU: instances with "ID" (n,) int64, and things among segments_info with "track_id"."""
        predictions = dict(predictions)
        if "instances" in predictions:
            instances = predictions["instances"].to("cpu")
            instances.ID = self._instances.update(instances.pred_boxes.tensor, instances.pred_classes)
            predictions["instances"] = instances
        if "panoptic_seg" in predictions:
            id_map, segments = predictions["panoptic_seg"][0].cpu(), predictions["panoptic_seg"][1]
            things = [segment for segment in segments if segment["isthing"]]
            masks = [id_map == segment["id"] for segment in things]
            boxes = BitMasks(torch.stack(masks)).get_bounding_boxes().tensor if masks else torch.zeros(0, 4)
            ids = self._segments.update(boxes, torch.tensor([s["category_id"] for s in things], dtype=torch.long))
            numbers = iter(ids.tolist())
            named = [{**s, "track_id": next(numbers)} if s["isthing"] else s for s in segments]
            predictions["panoptic_seg"] = id_map, named
        return predictions
