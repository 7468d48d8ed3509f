"""Pooling by tensors is Detectron2's pooling by `Boxes`."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from pentamask.graph import area_levels, pool_levels, rois_of


@pytest.mark.parametrize("count", [0, 40])
def test_levels_and_features_are_detectron2s(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pooler = ROIPooler(7, (1 / 4, 1 / 8, 1 / 16), 2, "ROIAlignV2")
    features = [torch.rand(1, 3, 256 // s, 320 // s, generator=generator) for s in (4, 8, 16)]
    corners = torch.rand(count, 2, generator=generator) * 100
    boxes = torch.cat((corners, corners + torch.rand(count, 2, generator=generator) * 500), dim=1)
    found = pool_levels(pooler.level_poolers, features, rois_of(boxes, 0), area_levels(pooler, boxes))
    assert torch.equal(found, pooler(features, [Boxes(boxes)]))
