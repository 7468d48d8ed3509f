"""RoIAlign over a pyramid, for inference on a CPU: channels-last, in parallel, one call for all levels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from ._extension import COMPILED_DEVICES, has_compiled_ops
from .packed import refuse_gradient


def roi_align_levels(
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`torchvision.ops.roi_align`, each region on a level of its own. There is no gradient.

    Args:
        maps: (N, C, H, W) of each level, float32 or float64; fastest in `torch.channels_last`.
        rois: (R, 5) image index and box, XYXY, in pixels of the images.
        levels: (R,) int64, number of the region's map.
        scales: of each level, 1 / stride.
        output_size: side S of the result.
        sampling_ratio: samples a cell in each direction, 0 for as many as it has pixels.
        aligned: shift the boxes by half a pixel, as ROIAlignV2 does.

    Returns:
        (R, C, S, S), in `torch.channels_last` where the compiled operator ran.

    Raises:
        ValueError, TypeError: an argument of a wrong shape, type or device.
    """
    if not has_compiled_ops() or maps[0].device.type not in ("cpu", "meta"):
        return reference.roi_align_levels(maps, rois, levels, scales, output_size, sampling_ratio, aligned)
    return torch.ops.pentamask.roi_align_levels(
        list(maps), rois, levels, list(scales), output_size, sampling_ratio, aligned
    )


def _fake(
    maps: list[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: list[float],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    out = maps[0].new_empty((rois.shape[0], output_size, output_size, maps[0].shape[1]))
    return out.permute(0, 3, 1, 2)


if COMPILED_DEVICES:
    torch.library.register_fake("pentamask::roi_align_levels", _fake)
    torch.library.register_autograd("pentamask::roi_align_levels", refuse_gradient)
