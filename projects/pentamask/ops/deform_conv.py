"""Modulated deformable convolution, as every backbone and head here uses it, on torchvision's op."""

from torch import Tensor
from torchvision.ops import deform_conv2d


def modulated_deform_conv(
    x: Tensor,
    offset_and_mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """Deformable convolution v2 (Deformable ConvNets v2, eq. 1) with offsets and modulation in one tensor.

    Args:
        x: (N, C, H, W).
        offset_and_mask: (N, 3 * G * k * k, H', W') prediction for G offset groups and k x k taps: first two thirds the
            (dy, dx) offsets, tap by tap; last third the modulation before its sigmoid.
        weight: (C', C / groups, k, k); the groups follow from its shape.
        bias: (C',) or None.
        stride, padding, dilation: of the convolution.

    Returns:
        (N, C', H', W').
    """
    taps = offset_and_mask.shape[1] // 3
    offset, mask = offset_and_mask[:, : 2 * taps], offset_and_mask[:, 2 * taps :].sigmoid()
    return deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)
