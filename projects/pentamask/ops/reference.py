"""Plain PyTorch versions of the compiled operators, by their definitions: the fallback, and the oracle of the tests.

They take the arguments of the public functions and accept everything that those accept; sums run in float32 for 16 bit.
"""

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
