"""Arguments that the tests of all three ops share."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pentamask import ops
from pentamask.ops import reference


class Op(NamedTuple):
    """An op, its oracle, which arguments are features (and get gradients) and which are coordinates."""

    function: Callable[..., Tensor]
    oracle: Callable[..., Tensor]
    grads: tuple[int, ...]
    features: tuple[int, ...]


OPS = {
    "blend": Op(ops.blend, reference.blend, (0, 2), (0, 2)),
    "spatial_attention": Op(ops.spatial_attention, reference.spatial_attention, (0, 1), (0, 1)),
    "ms_deform_attn": Op(ops.ms_deform_attn, reference.ms_deform_attn, (0, 3, 4), (0, 4)),
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


def off_centre(locations: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Locations at least 0.02 pixel from a pixel centre, where the gradient jumps from one side's to the other's."""
    extent = torch.tensor([(width, height) for height, width in sizes])[:, None].to(locations)
    pixels = locations * extent - 0.5
    low = pixels.floor()
    return (low + (pixels - low).clamp(0.02, 0.98) + 0.5) / extent


def deform_args(
    sizes: list[tuple[int, int]], batch: int, queries: int, heads: int, channels: int, points: int, seed: int = 0
) -> tuple:
    """Deformable attention; a third of the locations lie outside the maps."""
    rng = torch.Generator().manual_seed(seed)
    starts = [0]
    for height, width in sizes:
        starts.append(starts[-1] + height * width)
    value = torch.randn(batch, starts[-1], heads, channels, generator=rng)
    locations = torch.rand(batch, queries, heads, len(sizes), points, 2, generator=rng) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, len(sizes), points, generator=rng)
    return value, torch.tensor(sizes), torch.tensor(starts[:-1]), off_centre(locations, sizes), weights


def blend_args(
    batch: int, maps: int, size: tuple[int, int], instances: int, attn_size: int, output: int, seed: int = 0
) -> tuple:
    """Boxes of which some are reversed and some lie partly or wholly outside; two map pixels per input pixel's four."""
    rng = torch.Generator().manual_seed(seed)
    extent = torch.tensor([4.0 * size[1], 4.0 * size[0]])
    corner = torch.rand(instances, 2, generator=rng) * extent * 1.2
    other = corner + (torch.rand(instances, 2, generator=rng) - 0.2) * extent * 0.6
    image = torch.randint(batch, (instances, 1), generator=rng).float()
    bases = torch.randn(batch, maps, *size, generator=rng)
    attn = torch.randn(instances, maps, attn_size, attn_size, generator=rng)
    return bases, torch.cat((image, corner, other), dim=1), attn, 0.25, output


def sam_args(regions: int, channels: int, size: tuple[int, int], kernel: int = 3, seed: int = 0) -> tuple:
    """Features after a ReLU, so that many maxima are ties."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(regions, channels, *size, generator=rng).relu(), torch.randn(1, 2, kernel, kernel, generator=rng)


SMALL = {
    "blend": lambda: blend_args(2, 4, (12, 15), 5, 6, 10),
    "spatial_attention": lambda: sam_args(3, 19, (7, 6)),
    "ms_deform_attn": lambda: deform_args([(6, 7), (3, 4)], 2, 9, 3, 8, 4),
}

CASES = [
    ("blend", blend_args(1, 4, (50, 84), 20, 14, 56)),
    ("blend", blend_args(2, 4, (34, 46), 12, 7, 56)),
    ("blend", blend_args(3, 1, (1, 9), 4, 1, 5)),
    ("blend", blend_args(1, 7, (20, 3), 6, 20, 17)),
    ("spatial_attention", sam_args(8, 64, (14, 14))),
    ("spatial_attention", sam_args(3, 1, (1, 1))),
    ("spatial_attention", sam_args(2, 37, (5, 40), kernel=7)),
    ("ms_deform_attn", deform_args([(100, 167), (50, 84), (25, 42), (13, 21)], 1, 50, 8, 32, 4)),
    ("ms_deform_attn", deform_args([(8, 10), (4, 5)], 2, 200, 4, 16, 4)),
    ("ms_deform_attn", deform_args([(7, 9), (1, 3), (1, 1)], 2, 11, 3, 20, 3)),
    *(
        ("ms_deform_attn", deform_args([(5, 4), (2, 3)], 1, 60, 2, d, p))
        for d, p in [(1, 1), (3, 9), (4, 4), (8, 10), (64, 2)]
    ),
]


def cast(name: str, args: tuple, dtype: torch.dtype, device: str = "cpu") -> tuple:
    """Features in `dtype`; coordinates stay float32 unless `dtype` is float64."""
    result = []
    for i, arg in enumerate(args):
        if isinstance(arg, Tensor):
            floating = arg.is_floating_point() and (i in OPS[name].features or dtype == torch.float64)
            arg = arg.to(device=device, dtype=dtype if floating else arg.dtype)
        result.append(arg)
    return tuple(result)


def run(function: Callable[..., Tensor], args: tuple, grads: tuple[int, ...]) -> list[Tensor]:
    """The result and the gradients of the arguments `grads`, for a fixed random gradient of the result."""
    args = tuple(arg.detach().clone().requires_grad_() if i in grads else arg for i, arg in enumerate(args))
    out = function(*args)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, [args[i] for i in grads], grad_out)]


def assert_near(actual: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    """Every tensor within `tolerance` times the largest exact value."""
    for a, b in zip(actual, exact, strict=True):
        scale = b.abs().max().item() if b.numel() else 1.0
        torch.testing.assert_close(a.double().cpu(), b.cpu(), rtol=0, atol=tolerance * max(scale, 1e-30))


# Height, width and first token of a level that does not lie inside 54 tokens.
OUTSIDE_LEVELS = [
    (1000, 1000, 2**63 - 1),  # start + height * width overflows 64 bit
    (100_000, 100_000, 0),  # row * width overflows 32 bit
    (2**32 + 3, 2**32 + 4, 0),  # 3 x 4 in 32 bit
    (2**32, 2**32, 0),  # no token at all in 64 bit
    (-3, -4, 0),
    (3, 4, -1),
    (3, 4, 43),
]


def outside_level(height: int, width: int, start: int) -> tuple[tuple, list[Tensor]]:
    """Arguments of which the first of two levels is wrong; result and gradients if its pixels are zeros."""
    value, _, _, locations, weights = deform_args([(6, 7), (3, 4)], 1, 7, 2, 4, 2)
    args = (value, torch.tensor([(height, width), (3, 4)]), torch.tensor([start, 42]), locations, weights)
    right = (value, torch.tensor([(6, 7), (3, 4)]), torch.tensor([0, 42]), locations, weights.clone())
    right[4][:, :, :, 0] = 0
    expected = run(reference.ms_deform_attn, cast("ms_deform_attn", right, torch.float64), (0, 3, 4))
    expected[3][:, :, :, 0] = 0
    return args, expected
