"""Panoptic SegFormer from inside: where queries look, how blocks refine their masks, and how masks are merged."""

import math
from typing import TYPE_CHECKING, Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from pentamask.explanation import (
    Explanation,
    InstanceMaps,
    OrderedMasks,
    Points,
    best,
    check_evaluating,
    recorded,
)

from .location_decoder import output_boxes
from .merging import ScoredMasks, mask_wise_decisions, score_masks

if TYPE_CHECKING:
    from .meta_arch import PanopticSegFormer


@torch.no_grad()
def explain(
    model: "PanopticSegFormer", batched_inputs: list[dict], *, max_instances: int = 5, min_score: float = 0.0
) -> list[Explanation]:
    """Where the best things come from, and how the panoptic map is put together.

    Args:
        batched_inputs: as those of `forward`, in inference.
        max_instances, min_score: how many things, and the lowest score of one.

    Returns:
        Per image, with maps of (h_l, w_l) at the l = 1..3 strides 8, 16 and 32, and B blocks of the mask decoder:
        "sampling": `Points`, those of all heads and levels in the last layer of the location decoder;
        "attention": `InstanceMaps`, three of (n, h_l, w_l), the mean over the heads of the last attention's softmax;
        "masks": `InstanceMaps`, B + 1 of (n, h_1, w_1), the mask values by block, at least 0 and inside above 0.5;
        with the paper's rule "merging": `OrderedMasks` of all things and stuff, at the size of the input.
    """
    check_evaluating(model)
    images = model.preprocess_image(batched_inputs)
    cross_attention: Any = model.location_decoder.layers[-1].cross_attn
    with recorded(cross_attention) as (calls,):
        memory, locations = model.encode(images)
    (query, references, _), _ = calls[-1]
    samples, weights = cross_attention.samples(query, references, memory.level_table[0])
    padded_size = query.new_tensor(images.tensor.shape[:1:-1])  # width, height
    explanations: list[Explanation] = []
    for n, size in enumerate(images.image_sizes):
        tokens, level_shapes = memory.image(n, len(model.in_features))
        class_scores, queries, labels = model.select_things(locations, n)
        with recorded(model.thing_mask_decoder.tail) as (calls,):
            _, masks = model.thing_mask_decoder(
                locations.queries[n, queries], tokens, level_shapes, with_block_masks=True
            )
        scored = score_masks(masks[-1], class_scores, size)
        chosen = best(scored.scores, max_instances, min_score)
        instances = Instances(
            size,
            pred_boxes=Boxes(output_boxes(locations.boxes[-1, n, queries[chosen]], size, size)),
            scores=scored.scores[chosen],
            pred_classes=model.category_ids[labels[chosen]],
        )
        extent = (float(size[0]), float(size[1]))
        (tail_query, *_), _ = calls[0]
        logits = model.thing_mask_decoder.tail.logits(tail_query[chosen], tokens, level_shapes)
        names = [f"block {i + 1}" for i in range(len(masks) - 1)] + ["final"]
        parts: Explanation = {
            "sampling": _points(
                instances,
                samples[n, queries[chosen]] * padded_size,
                weights[n, queries[chosen]],
                [*model.in_features, "extra level"],
            ),
            "attention": InstanceMaps(
                "Attention of the query to the image, at three strides",
                instances,
                _attention(logits, level_shapes),
                [f"stride {2 ** round(math.log2(size[0] / h))}" for h, _ in level_shapes],
                extent,
            ),
            "masks": InstanceMaps("Mask after each block", instances, [x[chosen] for x in masks], names, extent),
        }
        if model.merge_options.rule == "mask_wise":
            stuff_logits, stuff_masks = model.decode_stuff(tokens, level_shapes)
            scored = scored.join(score_masks(stuff_masks[-1], stuff_logits[-1].sigmoid(), size))
            parts["merging"] = _merging(model, scored, labels)
        explanations.append(parts)
    return explanations


def _points(instances: Instances, locations: Tensor, weights: Tensor, level_names: list[str]) -> Points:
    """From locations (n, h, L, P, 2) in pixels and weights (n, h, L, P)."""
    levels = torch.arange(weights.shape[2], device=weights.device)[:, None].expand(weights.shape[1:])
    return Points(
        "Deformable sampling points of the query",
        instances,
        locations.flatten(1, 3).unbind(0),
        weights.flatten(1).unbind(0),
        [levels.flatten()] * len(weights),
        level_names,
    )


def _attention(logits: list[Tensor], shapes: list[tuple[int, int]]) -> list[Tensor]:
    """From logits (h, n, h_l * w_l) of each level the mean over the heads of the softmax: (n, h_l, w_l) each."""
    attention = torch.cat(logits, dim=2).softmax(dim=2).mean(dim=0)
    parts = attention.split([x.shape[2] for x in logits], dim=1)
    return [x.unflatten(1, shape) for x, shape in zip(parts, shapes)]


def _merging(model: "PanopticSegFormer", scored: ScoredMasks, thing_labels: Tensor) -> OrderedMasks:
    stuff_labels = torch.arange(model.num_stuff_classes, device=model.device) + model.num_thing_classes
    labels = torch.cat([thing_labels, stuff_labels])
    is_thing = labels < model.num_thing_classes
    decisions = list(mask_wise_decisions(scored, is_thing, model.merge_options))
    order = [i for i, _ in decisions]
    taken = [x if isinstance(x, Tensor) else torch.zeros_like(scored.inside[0]) for _, x in decisions]
    return OrderedMasks(
        "Masks in the order of their scores, and what each got of the panoptic map",
        scored.inside[order],
        torch.stack(taken),
        ["" if isinstance(x, Tensor) else x for _, x in decisions],
        scored.scores[order],
        model.category_ids[labels][order],
        is_thing[order],
    )
