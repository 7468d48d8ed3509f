"""Instances of a video keep their identity, and with it their colour, from frame to frame."""

import matplotlib
import torch
from detectron2.structures import Boxes, Instances
from detectron2.tracking.bbox_iou_tracker import BBoxIOUTracker

_LOST_FRAMES = 15  # that an object may be hidden
_COLOURS = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]


class Tracker:
    """Detectron2's `BBoxIOUTracker`, by class."""

    def __init__(self, height: int, width: int, iou_threshold: float = 0.3) -> None:
        """
        Args:
            height, width: of the frames.
            iou_threshold: least IoU of an object's boxes in two frames.
        """
        self._tracker = BBoxIOUTracker(
            video_height=height,
            video_width=width,
            max_num_instances=1_000_000,
            max_lost_frame_count=_LOST_FRAMES,
            min_box_rel_dim=0.0,
            min_instance_period=0,
            track_iou_threshold=iou_threshold,
        )
        self._apart = 2.0 * max(height, width)

    def __call__(self, instances: Instances) -> Instances:
        """The instances of the next frame, on the CPU, with "ID", a number for each object, and "COLOR" by it."""
        instances = instances.to("cpu")
        boxes = instances.pred_boxes.tensor
        # As in batched NMS, boxes of different classes are moved apart, so that they never meet.
        moved = Instances(instances.image_size, scores=instances.scores, pred_classes=instances.pred_classes)
        moved.pred_boxes = Boxes(boxes + self._apart * instances.pred_classes[:, None].to(boxes))
        # Objects that are lost for now come after those that are there.
        ids = self._tracker.update(moved).ID[: len(instances)]
        instances.ID = torch.tensor(ids, dtype=torch.long)
        instances.COLOR = [_COLOURS[i % len(_COLOURS)] for i in ids]
        return instances
