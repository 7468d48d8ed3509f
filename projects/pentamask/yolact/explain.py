"""YOLACT from inside: the prototypes, and how an instance's coefficients add them up to its mask (Figures 2 and 5)."""

from typing import TYPE_CHECKING

import torch
from detectron2.structures import Boxes, Instances

from pentamask.explanation import Explanation, InstanceMaps, Maps, WeightedSum, best, check_evaluating

from .inference import whole_pixels
from .masks import assemble_masks, crop_masks

if TYPE_CHECKING:
    from .meta_arch import YOLACT


@torch.no_grad()
def explain(
    model: "YOLACT", batched_inputs: list[dict], *, max_instances: int = 5, min_score: float = 0.0
) -> list[Explanation]:
    """How the masks of the best instances are assembled.

    Args:
        batched_inputs: as those of `forward`, in inference.
        max_instances, min_score: how many instances, and the lowest score of one.

    Returns:
        Per image, with k prototypes of h x w, which cover the whole image:
        "prototypes": `Maps` (k, h, w), at least 0;
        "sum": `WeightedSum` of the prototypes (k, h, w) with the coefficients (n, k), positive or negative;
        "crop": `InstanceMaps`, three of (n, h, w): the assembled mask's probabilities, those within the box, and what
        the crop removes.
    """
    check_evaluating(model)
    min_score = max(min_score, model.postprocessor.final_score_thresh)
    predictions = model.predict(model.backbone(model.preprocess_image(batched_inputs)))
    explanations: list[Explanation] = []
    for i, (x, prototypes) in enumerate(zip(batched_inputs, predictions.prototypes)):
        detections = model.detect(predictions, i)
        detections = detections.select(best(detections.scores, max_instances, min_score))
        height, width = x["image"].shape[1:]
        instances = Instances(
            (height, width),
            pred_boxes=Boxes(whole_pixels(detections.boxes, height, width)),
            scores=detections.scores,
            pred_classes=detections.classes,
        )
        assembled = assemble_masks(prototypes, detections.coefficients)
        cropped = crop_masks(assembled, detections.boxes)
        extent = (float(height), float(width))
        explanations.append(
            {
                "prototypes": Maps("Prototypes of the image", prototypes, extent),
                "sum": WeightedSum(
                    "Prototypes, weighted by the instance's coefficients",
                    instances,
                    prototypes,
                    detections.coefficients,
                    assembled,
                    extent,
                ),
                "crop": InstanceMaps(
                    "What the crop to the box removes",
                    instances,
                    [assembled, cropped, assembled - cropped],
                    ["assembled", "cropped", "removed"],
                    extent,
                ),
            }
        )
    return explanations
