"""Test-time augmentation of any model: it sees a picture in several sizes and mirrored, and the results are merged."""

import torch
from detectron2.config import get_cfg
from detectron2.data.transforms import HFlipTransform
from detectron2.layers import batched_nms
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from pentamask.engine.checks import BadInput

_MERGED_FIELDS = ("pred_boxes", "scores", "pred_classes", "pred_masks", "mask_scores")
_PanopticSeg = tuple[Tensor, list[dict]]


class ModelWithTTA(nn.Module):
    """A model with test-time augmentation; called like the model itself, and with its results.

    R-CNNs are left to Detectron2's `GeneralizedRCNNWithTTA`: boxes of all views are merged by NMS, and the masks that
    every view gives for them are averaged. Instances of other models, whose masks belong to the detection and not to a
    box, are merged by NMS, semantic scores are averaged, and panoptic segments keep what half of the views agree on.
    With a single view nothing is merged: the results are the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        min_sizes: list[int],
        max_size: int,
        flip: bool,
        nms_thresh: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        """
        Args:
            model: of Detectron2's input and output format; wrapped for distributed training or not.
            min_sizes, max_size, flip: short sides of the views, their largest long side, and whether each is also seen
                mirrored, see Detectron2's `DatasetMapperTTA`.
            nms_thresh: of two instances of a class with a larger box IoU the one with the lower score goes.
            max_detections: most instances of a picture.

        Raises:
            BadInput: the model finds key points, which nobody merges.
        """
        super().__init__()
        self.model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        self.training = self.model.training
        self.mapper = DatasetMapperTTA(list(min_sizes), max_size, flip)
        self.nms_thresh, self.max_detections = nms_thresh, max_detections
        heads = getattr(self.model, "roi_heads", None)
        if getattr(heads, "keypoint_on", False):
            raise BadInput("TEST.AUG.ENABLED: test-time augmentation of key points does not exist. Set it to False.")
        # Not that of PanopticFPN, which takes no boxes.
        self.rcnn = self._with_detectron2() if _inference_of(self.model) is GeneralizedRCNN.inference else None

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Detectron2's input dicts to its results, one dict an image."""
        return [self._merged(x) for x in batched_inputs]

    def _with_detectron2(self) -> GeneralizedRCNNWithTTA:
        heads, cfg = self.model.roi_heads, get_cfg()
        cfg.MODEL.MASK_ON = getattr(heads, "mask_on", False)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = heads.num_classes  # type: ignore[union-attr]
        cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = self.nms_thresh
        cfg.TEST.DETECTIONS_PER_IMAGE = self.max_detections
        return GeneralizedRCNNWithTTA(cfg, self.model, self.mapper)

    def _merged(self, x: dict) -> dict:
        x = {"height": x["image"].shape[1], "width": x["image"].shape[2], **x, "image": x["image"].cpu()}
        views = self.mapper(x)
        if len(views) == 1:
            return self.model(views)[0]
        if self.rcnn is not None:
            return self.rcnn([x])[0]
        flips = [any(isinstance(t, HFlipTransform) for t in view["transforms"].transforms) for view in views]
        # One at a time: views differ in size.
        results = [_unflip(self.model([view])[0], flip) for view, flip in zip(views, flips)]
        merged = {}
        if "instances" in results[0]:
            instances = Instances.cat([result["instances"] for result in results])
            merged["instances"] = _strongest(instances, self.nms_thresh, self.max_detections)
        if "sem_seg" in results[0]:
            merged["sem_seg"] = torch.stack([result["sem_seg"] for result in results]).mean(dim=0)
        if "panoptic_seg" in results[0]:
            merged["panoptic_seg"] = merge_panoptic([result["panoptic_seg"] for result in results])
        return merged


def _inference_of(model: nn.Module) -> object:
    return getattr(type(model), "inference", None)


def _unflip(result: dict, flip: bool) -> dict:
    """The result for a view as it is in the picture: what can be merged of it, mirrored back if the view was."""
    result = dict(result)
    if "instances" in result:
        result["instances"] = _unflip_instances(result["instances"], flip)
    if flip and "sem_seg" in result:
        result["sem_seg"] = result["sem_seg"].flip(-1)
    if flip and "panoptic_seg" in result:
        ids, infos = result["panoptic_seg"]
        result["panoptic_seg"] = ids.flip(-1), infos
    return result


def _unflip_instances(found: Instances, flip: bool) -> Instances:
    fields = {name: found.get(name) for name in _MERGED_FIELDS if found.has(name)}
    if flip:
        boxes = fields["pred_boxes"].tensor.clone()
        boxes[:, [0, 2]] = found.image_size[1] - boxes[:, [2, 0]]
        fields["pred_boxes"] = Boxes(boxes)
        if "pred_masks" in fields:
            fields["pred_masks"] = fields["pred_masks"].flip(-1)
    return Instances(found.image_size, **fields)


def _strongest(instances: Instances, nms_thresh: float, max_detections: int) -> Instances:
    """The instances that NMS by class leaves, best first."""
    kept = batched_nms(instances.pred_boxes.tensor, instances.scores, instances.pred_classes, nms_thresh)
    return instances[kept[:max_detections]]


def merge_panoptic(maps: list[_PanopticSeg]) -> _PanopticSeg:
    """The segments on which at least half of several panoptic maps of a picture agree.

    Args:
        maps: segment ids (H, W) and Detectron2's `segments_info` of each.

    Returns:
        The same of the result. Segments of different maps are one if they are of the same kind of stuff, or things of
        the same class whose IoU is at least 0.5; the best of them gives what is known of it. It keeps the pixels that
        half of the maps give to it, and no better segment has.
    """
    ids = torch.zeros_like(maps[0][0])
    merged: list[dict] = []
    left = [(info.get("score", 0.0), view, info) for view, (_, infos) in enumerate(maps) for info in infos]
    left.sort(key=lambda segment: -segment[0])
    while left:
        _, view, info = left[0]
        same = _counterparts(maps, maps[view][0] == info["id"], info, left)
        left = [segment for segment in left if not any(segment is other for other in same)]
        votes = torch.stack([maps[view][0] == info["id"] for _, view, info in same]).sum(dim=0)
        pixels = (2 * votes >= len(maps)) & (ids == 0)
        area = int(pixels.count_nonzero())
        if area:
            merged.append({**info, "id": len(merged) + 1, "area": area})
            ids[pixels] = len(merged)
    return ids, merged


def _counterparts(maps: list[_PanopticSeg], mask: Tensor, info: dict, segments: list[tuple]) -> list[tuple]:
    """Of (score, map, info), one a map at most: those that are the segment with mask (H, W) and `info`."""
    found: dict[int, tuple] = {}
    for segment in segments:
        _, view, other = segment
        if view in found or (other["isthing"], other["category_id"]) != (info["isthing"], info["category_id"]):
            continue
        pixels = maps[view][0] == other["id"]
        if not info["isthing"] or 2 * (pixels & mask).count_nonzero() >= (pixels | mask).count_nonzero():
            found[view] = segment
    return list(found.values())
