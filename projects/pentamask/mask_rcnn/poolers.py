"""RoI pooling variants of the paper's Table 2c that Detectron2 lacks."""

import torch.nn.functional as F
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn


class ROIAlignMax(nn.Module):
    """RoIAlign whose bins take the maximum of four samples instead of their mean."""

    def __init__(self, output_size: tuple[int, int], spatial_scale: float) -> None:
        """
        Args:
            output_size: height and width of the result.
            spatial_scale: 1 / stride of the feature map.
        """
        super().__init__()
        self.spatial_scale = spatial_scale
        self.samples = ROIAlign(tuple(2 * s for s in output_size), spatial_scale, sampling_ratio=1, aligned=True)

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """(N, C, H, W) features and (M, 5) image index and XYXY box in pixels -> (M, C, *output_size)."""
        return F.max_pool2d(self.samples(x, rois), 2)


class ROIWarp(nn.Module):
    """RoIWarp (arXiv 1512.04412): the box is rounded to cells as in RoIPool and resampled as in RoIAlign."""

    def __init__(self, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int) -> None:
        """
        Args:
            output_size, spatial_scale: as in `ROIAlignMax`.
            sampling_ratio: samples per bin and axis, 0 for as many as the bin has cells.
        """
        super().__init__()
        self.spatial_scale = spatial_scale
        self.resample = ROIAlign(output_size, spatial_scale, sampling_ratio, aligned=True)

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """As `ROIAlignMax.forward`."""
        cells = (rois[:, 1:] * self.spatial_scale).round()
        # RoIPool covers the first and the last cell.
        cells[:, 2:] += 1
        rois = rois.clone()
        rois[:, 1:] = cells / self.spatial_scale
        return self.resample(x, rois)


# Names for POOLER_TYPE, beside Detectron2's ROIAlignV2, ROIAlign and ROIPool.
EXTRA_POOLERS = ("ROIAlignMax", "ROIWarp")


def replace_level_poolers(pooler: ROIPooler, pooler_type: str, sampling_ratio: int) -> None:
    """Give Detectron2's multi-level `pooler`, in place, the single-level poolers of one of `EXTRA_POOLERS`."""
    scales = [level.spatial_scale for level in pooler.level_poolers]
    pooler.level_poolers = nn.ModuleList(
        ROIAlignMax(pooler.output_size, scale)
        if pooler_type == "ROIAlignMax"
        else ROIWarp(pooler.output_size, scale, sampling_ratio)
        for scale in scales
    )
