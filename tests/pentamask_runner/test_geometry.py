"""Masks in numpy are what PyTorch and Detectron2 make of them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import paste_masks_in_image
from pentamask_runner.geometry import paste, resize


@pytest.mark.parametrize("size", [(7, 9), (40, 3), (5, 5), (1, 1)])
def test_resize_is_bilinear(size: tuple[int, int]) -> None:
    maps = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(resize(maps.numpy(), *size), expected.numpy(), atol=2e-6)


def test_paste_is_detectron2s() -> None:
    generator = torch.Generator().manual_seed(1)
    masks = F.interpolate(torch.rand(30, 1, 4, 4, generator=generator), (28, 28), mode="bilinear")[:, 0]
    corners = torch.rand(30, 2, generator=generator) * 60
    boxes = torch.cat((corners, corners + torch.rand(30, 2, generator=generator) * 50), dim=1)
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, 80), boxes[:, 1::2].clamp(0, 70)
    expected = paste_masks_in_image(masks, boxes, (70, 80), threshold=0.5).numpy()
    found = np.stack([paste(mask, box, 70, 80) for mask, box in zip(masks.numpy(), boxes.numpy())])
    assert (found != expected).sum() <= 3 and expected.sum() > 5000


def test_a_box_without_extent_has_no_pixels() -> None:
    assert not paste(np.ones((4, 4), np.float32), np.array([3.0, 3.0, 3.0, 9.0]), 20, 20).any()
