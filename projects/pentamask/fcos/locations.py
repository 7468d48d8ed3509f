"""Where the cells of a feature map lie in the image."""

import torch
from torch import Tensor


def level_locations(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Image points of a feature map's cells: (x * stride + stride // 2, y * stride + stride // 2).

    Args:
        height, width: of the feature map, in cells.
        stride: of the level, in pixels.

    Returns:
        (height * width, 2) float32, (x, y) in input pixels, row by row.
    """
    ys = torch.arange(height, device=device, dtype=torch.float32) * stride + stride // 2
    xs = torch.arange(width, device=device, dtype=torch.float32) * stride + stride // 2
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack((grid_x.reshape(-1), grid_y.reshape(-1)), dim=1)
