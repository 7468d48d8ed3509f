"""BlendMask from inside: the bases, every instance's attention to them, and their blend (Figures 2 and 3)."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor

from pentamask.explanation import (
    Explanation,
    InstanceMaps,
    Maps,
    WeightedSum,
    best,
    boxes_to_rois,
    check_evaluating,
    described,
)

if TYPE_CHECKING:
    from .meta_arch import BlendMask


@torch.no_grad()
def explain(
    model: "BlendMask", batched_inputs: list[dict], *, max_instances: int = 5, min_score: float = 0.0
) -> list[Explanation]:
    """What the masks of the best instances are made of.

    Args:
        batched_inputs: as those of `forward`, in inference.
        max_instances, min_score: how many instances, and the lowest score of one.

    Returns:
        Per image, with K bases, attention of A x A, masks of R x R:
        "bases": `Maps` (K, h, w); with an auxiliary head "semantic": `Maps` (classes + 1, h / 2, w / 2) logits;
        "attention": `InstanceMaps`, K of (n, A, A), which add up to 1;
        "blend": `WeightedSum` of the bases within each box (n, K, R, R), by its upsampled attention (n, K, R, R).
    """
    check_evaluating(model)
    images = model.preprocess_image(batched_inputs)
    features = model.backbone(images.tensor)
    bases, detections = model.detect(images, features)
    blender = model.blender
    explanations: list[Explanation] = [dict(x) for x in image_maps(model, images, features, bases)]
    for i, (parts, detection) in enumerate(zip(explanations, detections)):
        chosen = best(detection.scores, max_instances, min_score)
        instances = described(detection, chosen)
        attention = blender.as_maps(detection.top_feat[chosen])
        crops, weights = blender.terms(bases, boxes_to_rois(detection.pred_boxes.tensor[chosen], i), attention)
        names = [f"base {k + 1}" for k in range(blender.num_bases)]
        parts["attention"] = InstanceMaps(
            "Attention of each instance to the bases", instances, attention.softmax(dim=1).unbind(1), names
        )
        result = (crops * weights).sum(dim=1).sigmoid()
        parts["blend"] = WeightedSum("Bases within the box, blended by attention", instances, crops, weights, result)
    return explanations


def image_maps(
    model: "BlendMask", images: ImageList, features: dict[str, Tensor], bases: Tensor
) -> list[dict[str, Maps]]:
    """The parts "bases" and "semantic" of `explain` for each image."""
    height, width = (float(size) for size in images.tensor.shape[-2:])
    found = [{"bases": Maps("Bases of the image", x, (height, width))} for x in bases]
    if model.basis_module.loss_on:
        for parts, logits in zip(found, model.basis_module.sem_seg_logits(features)):
            parts["semantic"] = Maps("Logits of the auxiliary head, background first", logits, (height, width))
    return found


def add_internals(
    results: list[dict],
    batched_inputs: list[dict],
    images: ImageList,
    maps: list[dict[str, Maps]],
) -> None:
    """What MODEL.BLENDMASK.VISUALIZE asks for, in place: see `BlendMask`. `maps` are those of `image_maps`."""
    for result, x, image_size, parts in zip(results, batched_inputs, images.image_sizes, maps):
        result["bases"] = parts["bases"].values
        if "semantic" in parts:
            height, width = x.get("height", image_size[0]), x.get("width", image_size[1])
            logits = parts["semantic"].values[None]
            padded = F.interpolate(logits, images.tensor.shape[-2:], mode="bilinear", align_corners=False)[0]
            result["sem_thing_seg"] = sem_seg_postprocess(padded, image_size, height, width)
