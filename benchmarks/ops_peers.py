"""What a user would run instead of the compiled ops: the formulations that other packages ship, on stock PyTorch.

Each takes the arguments of pentamask's op. torch-ms-deform-attn joins where it is installed (`pip install --no-deps
torch-ms-deform-attn`); it is not a dependency.
"""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align


def deform_grid_sample(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """One grid_sample a level: the fallback that packages with deformable attention ship for CPUs."""
    batch, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    sizes = shapes.tolist()
    maps = value.split([height * width for height, width in sizes], dim=1)
    grids = (2 * locations - 1).to(value.dtype)
    samples = []
    for level, (height, width) in enumerate(sizes):
        features = maps[level].flatten(2).transpose(1, 2).reshape(batch * heads, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points).to(value.dtype)
    out = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(-1)
    return out.view(batch, heads * channels, queries).transpose(1, 2).contiguous()


def deform_embedding_bag(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """A weighted sum of 4 L P rows per query and head, by the CPU's embedding bag."""
    batch, tokens, heads, channels = value.shape
    queries = locations.shape[1]
    size = shapes.flip(1)[:, None].to(locations.dtype)
    pixels = locations * size - 0.5
    low = pixels.detach().floor()
    share = pixels - low
    indices, factors = [], []
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = low[..., 0] + dx, low[..., 1] + dy
        width, height = size[:, :, 0], size[:, :, 1]
        exists = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        token = starts[:, None] + torch.where(exists, y * width + x, 0).long()
        wx = share[..., 0] if dx else 1 - share[..., 0]
        wy = share[..., 1] if dy else 1 - share[..., 1]
        indices.append(token)
        factors.append(torch.where(exists, weights * wx * wy, 0))
    bags = batch * queries * heads
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=value.device).view(1, 1, -1, 1, 1, 1)
    rows = ((image * tokens + torch.stack(indices, dim=-1)) * heads + head).reshape(bags, -1)
    factors = torch.stack(factors, dim=-1).reshape(bags, -1)
    table = value.reshape(-1, channels)
    return F.embedding_bag(rows, table, per_sample_weights=factors, mode="sum").view(batch, queries, heads * channels)


def blend_eager(bases: Tensor, rois: Tensor, attn: Tensor, spatial_scale: float, output_size: int) -> Tensor:
    """torchvision's RoIAlign and PyTorch's interpolate and softmax, as the released blender composes them."""
    crops = roi_align(bases, rois.to(bases.dtype), output_size, spatial_scale, 1, True)
    attn = F.interpolate(attn, (output_size, output_size), mode="bilinear", align_corners=False)
    return (crops * attn.softmax(dim=1)).sum(dim=1)


def sam_eager(input: Tensor, weight: Tensor) -> Tensor:
    """Mean, max, convolution, sigmoid, product, as in the released code."""
    maps = torch.cat((input.mean(dim=1, keepdim=True), input.max(dim=1, keepdim=True).values), dim=1)
    return input * F.conv2d(maps, weight, padding=weight.shape[-1] // 2).sigmoid()


def deform_package(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """torch-ms-deform-attn, the packaged C++ op."""
    import torch_ms_deform_attn

    return torch_ms_deform_attn.ms_deform_attn(value, shapes, starts, locations, weights)


class _ThreadPerChannel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Tensor) -> Tensor:
        ctx.save_for_backward(*args)
        return torch.ops.pentamask_benchmarks.forward(*args)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        args = ctx.saved_tensors
        value, locations, weights = torch.ops.pentamask_benchmarks.backward(grad_out.contiguous(), *args)
        return value, None, None, locations, weights


@functools.cache
def _load_thread_per_channel() -> None:
    from torch.utils.cpp_extension import load

    load("thread_per_channel", [str(Path(__file__).with_name("thread_per_channel.cu"))], is_python_module=False)


def deform_thread_per_channel(*args: Tensor) -> Tensor:
    """The CUDA kernel of the 2020 kind in thread_per_channel.cu, compiled at its first use; float32."""
    _load_thread_per_channel()
    return _ThreadPerChannel.apply(*args)


PEERS: dict[str, dict[str, Callable]] = {
    "deform": {"grid_sample": deform_grid_sample, "embedding_bag": deform_embedding_bag},
    "blend": {"eager": blend_eager, "compiled": torch.compile(blend_eager, dynamic=False)},
    "sam": {"eager": sam_eager, "compiled": torch.compile(sam_eager, dynamic=False)},
}
if importlib.util.find_spec("torch_ms_deform_attn") is not None:
    PEERS["deform"]["torch-ms-deform-attn"] = deform_package
if torch.cuda.is_available():
    PEERS["deform"]["thread per channel"] = deform_thread_per_channel
