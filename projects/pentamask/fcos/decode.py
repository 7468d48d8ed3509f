"""From raw predictions to detections: threshold, top-k, boxes, NMS."""

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor


def decode_level(
    locations: Tensor,
    logits: Tensor,
    reg: Tensor,
    ctrness: Tensor,
    *,
    stride: int,
    level: int,
    image_size: tuple[int, int],
    score_thresh: float,
    thresh_with_ctr: bool,
    topk: int,
    top_feats: Tensor | None = None,
) -> Instances:
    """Candidates of one level of one image, in no particular order.

    Args:
        locations: (R, 2) image points of the level's cells, in pixels.
        logits: (K, H, W) class logits.
        reg: (4, H, W) distances in strides.
        ctrness: (1, H, W) box quality logit.
        image_size: (height, width) of the unpadded image.
        score_thresh: candidates need a class probability, or with `thresh_with_ctr` its product with the box
            quality, above it.
        topk: keep this many candidates of the highest product.
        top_feats: (D, H, W) features to return with each candidate.

    Returns:
        `Instances` with pred_boxes (not clipped), scores = sqrt(probability * quality), pred_classes, locations,
        fpn_levels and, if given, top_feat (n, D).
    """
    probs = logits.flatten(1).t().sigmoid()
    scores = probs * ctrness.flatten(1).t().sigmoid()
    index, classes = ((scores if thresh_with_ctr else probs) > score_thresh).nonzero(as_tuple=True)
    scores = scores[index, classes]
    if len(scores) > topk:
        scores, keep = scores.topk(topk, sorted=False)
        index, classes = index[keep], classes[keep]

    points = locations[index]
    distances = reg.flatten(1).t()[index] * stride
    result = Instances(image_size)
    result.pred_boxes = Boxes(torch.cat((points - distances[:, :2], points + distances[:, 2:]), dim=1))
    result.scores = scores.sqrt()
    result.pred_classes = classes
    result.locations = points
    result.fpn_levels = torch.full_like(classes, level)
    if top_feats is not None:
        result.top_feat = top_feats.flatten(1).t()[index]
    return result


def select_detections(candidates: Instances, *, nms_thresh: float, topk: int) -> Instances:
    """Class-wise NMS, then the `topk` best; candidates that tie with the last of them stay too.

    Args:
        candidates: of all levels of one image, with pred_boxes, scores, pred_classes.
        nms_thresh: IoU above which the lower score goes; <= 0 for no NMS.
        topk: <= 0 for no limit.

    Returns:
        The detections, in descending order of score if NMS ran.
    """
    if nms_thresh > 0:
        # Boxes are always float32, and NMS needs boxes and scores of one type.
        keep = batched_nms(candidates.pred_boxes.tensor, candidates.scores.float(), candidates.pred_classes, nms_thresh)
        candidates = candidates[keep]
    if 0 < topk < len(candidates):
        last = candidates.scores.topk(topk).values[-1]
        candidates = candidates[candidates.scores >= last]
    return candidates
