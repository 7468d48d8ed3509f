"""Merging in numpy gives the maps of the models' own functions."""

import numpy as np
import pytest
import torch
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Boxes, Instances
from pentamask_runner.panoptic import combine, merge

from pentamask.panoptic_segformer.merging import MERGE_RULES, MergeOptions, score_masks
from pentamask.panoptic_segformer.merging import merge as models_merge


def blobs(count: int, seed: int) -> torch.Tensor:
    """(count, 40, 50) values, smooth, many above 0.5."""
    coarse = torch.rand(count, 1, 4, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (40, 50), mode="bilinear")[:, 0]


@pytest.mark.parametrize("rule", MERGE_RULES)
def test_queries(rule: str) -> None:
    maps, generator = blobs(14, seed=3), torch.Generator().manual_seed(4)
    class_scores, labels = torch.rand(14, generator=generator), torch.randint(0, 7, (14,), generator=generator)
    thresholds = {"quality_thresh_things": 0.05, "quality_thresh_stuff": 0.05, "keep_fraction": 0.2}
    options = MergeOptions(rule=rule, overlap_thresh_things=0.8, overlap_thresh_stuff=0.8, **thresholds)
    ids, infos = models_merge(maps, class_scores, labels, (40, 50), 4, options)
    scores = score_masks(maps, class_scores, (40, 50)).scores
    settings = {**vars(options), "num_things": 4, "category_ids": list(range(7))}
    found, segments = merge(list(maps.numpy()), class_scores.numpy(), scores.numpy(), labels.numpy(), settings)
    assert len(infos) > 2 and np.array_equal(found, ids.numpy())
    for ours, theirs in zip(segments, infos, strict=True):
        assert ours.pop("score") == pytest.approx(theirs.pop("score"), abs=1e-6) and ours == theirs


def test_instances_and_semantic_classes() -> None:
    masks, generator = blobs(6, seed=5) > 0.5, torch.Generator().manual_seed(6)
    labels = blobs(4, seed=7).argmax(dim=0)
    scores, classes = torch.rand(6, generator=generator), torch.randint(0, 5, (6,), generator=generator)
    instances = Instances((40, 50), pred_masks=masks, scores=scores, pred_classes=classes)
    instances.pred_boxes = Boxes(torch.zeros(6, 4))
    ids, infos = combine_semantic_and_instance_outputs(instances, labels, 0.5, 30, 0.2)
    options = {"overlap_thresh": 0.5, "stuff_area_limit": 30, "instances_score_thresh": 0.2}
    found, segments = combine(masks.numpy(), scores.numpy(), classes.numpy(), labels.numpy(), options)
    assert {info["isthing"] for info in infos} == {True, False} and np.array_equal(found, ids.numpy())
    assert segments == [{**info, "category_id": int(info["category_id"])} for info in infos]
