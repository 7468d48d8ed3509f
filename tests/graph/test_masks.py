"""Masks at the size of the input are those of Detectron2."""

import torch
import torch.nn.functional as F
from detectron2.layers import paste_masks_in_image

from pentamask.graph import paste_masks


def test_pasting_is_detectron2s() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = F.interpolate(torch.rand(20, 1, 4, 4, generator=generator), (14, 14), mode="bilinear")[:, 0]
    corners = torch.rand(20, 2, generator=generator) * 40 - 5
    boxes = torch.cat((corners, corners + torch.rand(20, 2, generator=generator) * 30 + 1), dim=1)
    clipped = torch.minimum(boxes.clamp(min=0), torch.tensor([50.0, 40.0, 50.0, 40.0]))
    expected = paste_masks_in_image(masks, clipped, (40, 50), threshold=0.5)
    found = paste_masks(masks, boxes, 40, 50)
    assert (found != expected).sum() <= 2 and expected.sum() > 1000


def test_a_box_without_extent_has_no_pixels() -> None:
    assert not paste_masks(torch.ones(1, 4, 4), torch.tensor([[3.0, 3.0, 3.0, 9.0]]), 20, 20).any()
