"""CenterMask from inside: the level of each RoI, where its spatial attention looks, and the score of its mask."""

from typing import TYPE_CHECKING

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn

from pentamask.explanation import BoxLevels, Explanation, InstanceMaps, best, check_evaluating, described, recorded

from .mask_head import SpatialAttentionMaskHead, select_masks

if TYPE_CHECKING:
    from .meta_arch import CenterMask


@torch.no_grad()
def explain(
    model: "CenterMask", batched_inputs: list[dict], *, max_instances: int = 5, min_score: float = 0.0
) -> list[Explanation]:
    """How the masks of the best instances come about.

    Args:
        batched_inputs: as those of `forward`, in inference.
        max_instances, min_score: how many instances, and the lowest score of one.

    Returns:
        Per image, with RoI features of S x S (of a box detector nothing):
        "levels": `BoxLevels`, the feature map that each detection's mask is pooled from;
        "attention": `InstanceMaps`, one of (n, S, S), in 0-1, which the features are multiplied by;
        "masks": `InstanceMaps`, two of (n, 2 S, 2 S), the mask's probabilities without and with the attention, noted
        with the predicted IoU. The last two need a `SpatialAttentionMaskHead`, else "masks" has the mask only.
    """
    check_evaluating(model)
    heads = model.roi_heads
    if not heads.mask_on:
        return [{} for _ in batched_inputs]
    spatial = isinstance(heads.mask_head, SpatialAttentionMaskHead)
    nothing = nn.Identity()
    attention = heads.mask_head.spatialAtt if spatial else nothing
    with recorded(attention, heads.maskiou_head or nothing) as (attended, rated):
        results = GeneralizedRCNN.inference(model, batched_inputs, do_postprocess=False)
    levels = heads.mask_pooler.assign_levels([x.pred_boxes for x in results], [x.image_size for x in results])
    counts = [len(x) for x in results]
    explanations: list[Explanation] = []
    unknown = [None] * len(results)
    inputs = attended[0][0][0].split(counts) if spatial else unknown
    ious = rated[0][1].split(counts) if rated else unknown
    for x, own_levels, features, own_ious in zip(results, levels.split(counts), inputs, ious):
        parts: Explanation = {}
        shown = best(x.scores, len(x), min_score)
        parts["levels"] = BoxLevels(
            "Feature map that each mask is pooled from",
            x.pred_boxes.tensor[shown],
            x.scores[shown],
            own_levels[shown],
            heads.mask_in_features,
        )
        chosen = shown[:max_instances]
        instances, masks, names = described(x, chosen), [x.pred_masks[chosen, 0]], ["mask"]
        if features is not None:
            gate, plain = _attention(heads.mask_head, features[chosen], instances.pred_classes)
            parts["attention"] = InstanceMaps("Spatial attention within the box", instances, [gate], ["attention"])
            masks, names = [plain, *masks], ["mask without attention", "mask"]
        notes = []
        if own_ious is not None:
            of_class = own_ious[chosen].gather(1, instances.pred_classes[:, None])[:, 0]
            notes = [f"predicted mask IoU {iou:.2f}" for iou in of_class.tolist()]
        parts["masks"] = InstanceMaps("Mask within the box", instances, masks, names, notes=notes)
        explanations.append(parts)
    return explanations


def _attention(head: SpatialAttentionMaskHead, features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The attention (n, S, S) to the convolved features (n, C, S, S), and the masks (n, 2 S, 2 S) that they would give
    without it."""
    logits = head.predictor(head.deconv_relu(head.deconv(features)))
    return head.spatialAtt.gate(features), select_masks(logits, classes).sigmoid()
