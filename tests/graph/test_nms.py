"""Selection in steps of fixed size gives what steps of any size give."""

import pytest
import torch
from torchvision.ops import batched_nms

from pentamask.graph import class_wise_nms, top_candidates


@pytest.mark.parametrize("count", [3, 50])  # fewer and more than are asked for
def test_top_candidates(count: int) -> None:
    scores = torch.rand(count, generator=torch.Generator().manual_seed(0))
    found, index = top_candidates(scores, 10)
    best = scores.sort(descending=True).values[:10]
    assert torch.equal(found[: len(best)], best) and (found[len(best) :] == -1).all()
    assert torch.equal(scores[index[: len(best)]], best) and index.max() < count


@pytest.mark.parametrize("count", [0, 1, 300])
def test_class_wise_nms_is_torchvisions(count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(count, 2, generator=generator) * 100 - 20
    boxes = torch.cat((corners, corners + torch.rand(count, 2, generator=generator) * 60), dim=1)
    scores, classes = torch.rand(count, generator=generator), torch.randint(0, 5, (count,), generator=generator)
    expected = batched_nms(boxes + 50, scores, classes, 0.5)
    assert torch.equal(class_wise_nms(boxes, scores, classes, 0.5), expected)
