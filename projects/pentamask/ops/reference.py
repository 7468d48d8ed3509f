"""Plain PyTorch versions of the compiled operators, by their definitions: the fallback, and the oracle of the tests.

They take the arguments of the public functions and accept everything that those accept; sums run in float32 for 16 bit.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align


def compute_type(tensor: Tensor) -> torch.dtype:
    """The type that sums run in."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def check_scale(spatial_scale: float) -> None:
    """Raise `ValueError` unless the scale of `blend` is a finite number."""
    if not abs(spatial_scale) < float("inf"):  # math.isfinite does not trace
        raise ValueError(f"blend: expected a finite `spatial_scale`, got {spatial_scale}")


def blend(bases: Tensor, rois: Tensor, attn: Tensor, spatial_scale: float, output_size: int) -> Tensor:
    """RoIAlign, upsample, softmax over the maps, multiply, sum; see `pentamask.ops.blend`."""
    check_scale(spatial_scale)
    dtype = compute_type(bases)
    rois = rois.detach().to(dtype)
    boxes = rois[:, 1:] * spatial_scale
    # torchvision reads outside the map where a coordinate is not finite; such a sample counts as zero here.
    boxes = torch.where(boxes.isfinite().all(dim=1, keepdim=True), boxes, -4.0)
    rois = torch.cat((rois[:, :1], boxes), dim=1)
    crops = roi_align(bases.to(dtype), rois, output_size, 1.0, sampling_ratio=1, aligned=True)
    attn = F.interpolate(attn.to(dtype), (output_size, output_size), mode="bilinear", align_corners=False)
    return (crops * attn.softmax(dim=1)).sum(dim=1).to(bases.dtype)


def spatial_attention(input: Tensor, weight: Tensor) -> Tensor:
    """Mean and maximum, convolution, sigmoid, product; see `pentamask.ops.spatial_attention`."""
    features = input.to(compute_type(input))
    return (features * spatial_gate(features, weight)).to(input.dtype)


def spatial_gate(features: Tensor, weight: Tensor) -> Tensor:
    """The gate (N, 1, H, W), in 0-1, by which `spatial_attention` multiplies features in the type of its sums."""
    maps = torch.cat((features.mean(dim=1, keepdim=True), features.max(dim=1, keepdim=True).values), dim=1)
    return F.conv2d(maps, weight.to(features.dtype), padding=weight.shape[-1] // 2).sigmoid()


def _axis(location: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left pixel (int64), share of the right one, and whether the sample touches the level, along one axis."""
    coordinate = location * size - 0.5
    touches = (coordinate > -1) & (coordinate < size)
    coordinate = torch.where(touches, coordinate, 0.0)
    left = coordinate.detach().floor()
    return left.long(), coordinate - left, touches


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Gather the four pixels of each sample, level by level; see `pentamask.ops.ms_deform_attn`.

    Reads no size on the host, so it traces and exports with symbolic shapes.
    """
    dtype = compute_type(value)
    locations, weights, features = sampling_locations.to(dtype), attention_weights.to(dtype), value.to(dtype)
    batch, queries, heads, levels, points, _ = locations.shape
    features = F.pad(features, (0, 0, 0, 0, 0, 1))  # one token of zeros, for the pixels outside
    nothing = value.shape[1]
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1)
    head = torch.arange(heads, device=value.device).view(-1, 1)
    out = features.new_zeros(batch, queries, heads, value.shape[3])
    for level in range(levels):
        height, width = spatial_shapes[level]
        x0, dx, touches_x = _axis(locations[:, :, :, level, :, 0], width)
        y0, dy, touches_y = _axis(locations[:, :, :, level, :, 1], height)
        weight = torch.where(touches_x & touches_y, weights[:, :, :, level], 0.0)
        for x, wx in ((x0, 1 - dx), (x0 + 1, dx)):
            for y, wy in ((y0, 1 - dy), (y0 + 1, dy)):
                exists = touches_x & touches_y & (x >= 0) & (x < width) & (y >= 0) & (y < height)
                token = torch.where(exists, level_start_index[level] + y * width + x, nothing)
                out = out + torch.einsum("nqmp,nqmpd->nqmd", weight * wx * wy, features[image, token, head])
    return out.reshape(batch, queries, heads * value.shape[3]).to(value.dtype)


def _unpack(weight: Tensor, columns: int) -> Tensor:
    """What `pentamask.ops.packed.pack_matrix` packed: (..., K, C)."""
    return weight.transpose(-1, -2).flatten(-3, -2)[..., :columns, :]


def packed_linear(
    input: Tensor,
    weight: Tensor,
    out_features: int,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """See `pentamask.ops.packed.packed_linear`."""
    out = F.linear(input, _unpack(weight, out_features), bias)
    out = out if residual is None else out + residual
    return out.relu() if relu else out


# Winograd's convolution interpolates polynomials in these points and infinity.
_POINTS = (0.0, 2 / 3, -2 / 3, 4 / 3, -4 / 3)


def winograd_weight_matrix() -> Tensor:
    """(6, 3) float64: values of a polynomial of three coefficients in the points, each over the derivative there of the
    polynomial with all points as roots; and the leading coefficient."""
    rows = [
        [point**i / math.prod(point - other for other in _POINTS if other != point) for i in range(3)]
        for point in _POINTS
    ]
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)


def _winograd_input_matrix() -> Tensor:
    """(6, 6) float64: row i has the coefficients of the polynomial whose roots are all points but point i."""
    rows = []
    for left_out in range(len(_POINTS) + 1):
        coefficients = [1.0]
        for i, root in enumerate(_POINTS):
            if i != left_out:
                coefficients = [
                    shifted - root * same for shifted, same in zip([0.0, *coefficients], [*coefficients, 0.0])
                ]
        rows.append(coefficients + [0.0] * (6 - len(coefficients)))
    return torch.tensor(rows, dtype=torch.float64)


def _winograd_output_matrix() -> Tensor:
    """(4, 6) float64: powers 0 to 3 of the points; infinity counts for the highest only."""
    return torch.tensor([[*(point**i for point in _POINTS), float(i == 3)] for i in range(4)], dtype=torch.float64)


def winograd_conv3x3(
    input: Tensor, weight: Tensor, out_channels: int, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Tiles, their transform, 36 products, the transform back; see `pentamask.ops.packed.winograd_conv3x3`."""
    n, _, height, width = input.shape
    padded = F.pad(input, (1, 1 + -width % 4, 1, 1 + -height % 4))
    tiles = padded.unfold(2, 6, 4).unfold(3, 6, 4)  # (N, C, rows, columns, 6, 6)
    forward, back = (matrix().to(input) for matrix in (_winograd_input_matrix, _winograd_output_matrix))
    numbers = torch.einsum("ia,nchwab,jb->ijnhwc", forward, tiles, forward).flatten(0, 1)
    matrices = _unpack(weight, out_channels)
    products = torch.einsum("pnhwc,pkc->pnhwk", numbers, matrices).unflatten(0, (6, 6))
    pixels = torch.einsum("ai,ijnhwk,bj->nkhawb", back, products, back)
    out = pixels.flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
    out = out if bias is None else out + bias[:, None, None]
    return (out.relu() if relu else out).contiguous(memory_format=torch.channels_last)


def roi_align_levels(
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Level by level; see `pentamask.ops.roi_align.roi_align_levels`."""
    out = maps[0].new_zeros((len(rois), maps[0].shape[1], output_size, output_size))
    for level, (x, scale) in enumerate(zip(maps, scales)):
        index = (levels == level).nonzero()[:, 0]
        out[index] = roi_align(x, rois[index], output_size, scale, sampling_ratio, aligned)
    return out


_MASKS_AT_A_TIME = 25  # that exist as numbers: bounds the memory for big pictures


def resize_masks(masks: Tensor, height: int, width: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Interpolate, compare, sum; see `pentamask.ops.resize_masks`."""
    inside, sums = [], []
    # A traced model has a fixed number of parts.
    for part in masks.split(masks.shape[0] if torch.jit.is_tracing() else _MASKS_AT_A_TIME):
        resized = F.interpolate(part[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
        inside.append(resized > threshold)
        total = (resized * inside[-1]).sum(dim=(1, 2))
        sums.append(torch.stack([total, inside[-1].sum(dim=(1, 2)).to(total)], dim=1))
    return torch.cat(inside), torch.cat(sums)


def ms_deform_attn_of_levels(
    value: Tensor, shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """As `ms_deform_attn` by `grid_sample`, where `shapes` are L pairs (height, width): a tenth of the steps."""
    dtype = compute_type(value)
    batch, queries, heads = sampling_locations.shape[:3]
    # grid_sample wants (N * M, D, h, w) maps and (N * M, P, Q, 2) points in -1 ... 1. With the queries last, sums over
    # points run along memory.
    features = value.to(dtype).permute(0, 2, 3, 1).flatten(0, 1)
    grids = (2 * sampling_locations.to(dtype) - 1).permute(0, 2, 3, 4, 1, 5).flatten(0, 1)
    grids = torch.where(grids.abs() < 4, grids, 4.0)  # far outside, also what is not finite
    weights = attention_weights.to(dtype).permute(0, 2, 3, 4, 1).flatten(0, 1)
    start, parts = 0, []
    for level, (height, width) in enumerate(shapes):
        level_map = features[:, :, start : start + height * width].unflatten(2, (height, width))
        samples = F.grid_sample(level_map, grids[:, level], align_corners=False)
        parts.append((samples * weights[:, None, level]).sum(dim=2))
        start = start + height * width
    out = functools.reduce(torch.add, parts)
    return out.view(batch, heads * value.shape[3], queries).transpose(1, 2).to(value.dtype)
