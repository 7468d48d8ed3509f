"""Floating-point operations of the compiled operators, for fvcore's and Detectron2's `FlopCountAnalysis`."""

from collections.abc import Callable, Sequence
from typing import Any

from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS
from fvcore.nn.jit_handles import get_shape


def blend_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """4 for each bilinear sample of the K bases, 4 for each of the K attention maps, 1 for their product.

    As everywhere in fvcore, a multiplication with the addition that follows counts as one; exponentials do not count.
    """
    maps = get_shape(inputs[0])[1]
    instances, rows, columns = get_shape(outputs[0])
    return 9 * maps * instances * rows * columns


def spatial_attention_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """The convolution of the two maps, and for each number of the input the mean and the product with the gate."""
    (batch, channels, height, width), kernel = get_shape(inputs[0]), get_shape(inputs[1])[-1]
    return batch * height * width * (2 * kernel**2 + 2 * channels)


def ms_deform_attn_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """For each sampled point and channel, 4 of the bilinear sample and 1 of the weighted sum."""
    batch, queries, heads, levels, points, _ = get_shape(inputs[3])
    return 5 * batch * queries * heads * levels * points * get_shape(inputs[0])[3]


FLOP_HANDLES: dict[str, Callable] = {
    "pentamask::blend": blend_flops,
    "pentamask::spatial_attention": spatial_attention_flops,
    "pentamask::ms_deform_attn": ms_deform_attn_flops,
}


def register_flop_handles() -> None:
    """Let every `FlopCountAnalysis` know the operators; handles that are there already stay.

    fvcore has no public way to do this for all analyses; for a single one there is `set_op_handle(**FLOP_HANDLES)`.
    """
    for name, handle in FLOP_HANDLES.items():
        _DEFAULT_SUPPORTED_OPS.setdefault(name, handle)
