"""Semantic logits beside instances: what of Detectron2's Panoptic FPN is left to the runner."""

from typing import Any

from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead


def combination(
    head: SemSegFPNHead, overlap_thresh: float, stuff_area_limit: int, instances_score_thresh: float
) -> dict[str, Any]:
    """For `Graph.description` of a graph with "sem_seg", the output of `head.layers`.

    Args:
        head: of the model.
        overlap_thresh, stuff_area_limit, instances_score_thresh: see Detectron2's
            `combine_semantic_and_instance_outputs`.
    """
    return {
        "sem_seg_stride": head.common_stride,
        "combine": {
            "overlap_thresh": overlap_thresh,
            "stuff_area_limit": stuff_area_limit,
            "instances_score_thresh": instances_score_thresh,
        },
    }
