"""The shapes that the ops are measured on, all from the models: arguments, and which of them get gradients."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

ENCODER_4 = [(100, 167), (50, 84), (25, 42), (13, 21)]  # an 800 x 1333 image, strides 8 to 64
TRAIN_4 = [(60, 80), (30, 40), (15, 20), (8, 10)]  # 480 x 640
Arguments = tuple[tuple, tuple[int, ...]]


def encoder_locations(
    sizes: list[tuple[int, int]], batch: int, heads: int, points: int, rng: torch.Generator
) -> Tensor:
    """Every token looks around its centre: head m in direction 2 pi m / M, point p at p + 1 pixels, noise of 1.5."""
    centres = []
    for height, width in sizes:
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append(torch.stack(((x.flatten() + 0.5) / width, (y.flatten() + 0.5) / height), dim=-1))
    centres = torch.cat(centres)
    angle = 2 * math.pi * torch.arange(heads) / heads
    steps = torch.stack((angle.cos(), angle.sin()), dim=-1)[:, None] * torch.arange(1, points + 1)[:, None]
    pixels = steps[None, None, :, None] + 1.5 * torch.randn(
        batch, len(centres), heads, len(sizes), points, 2, generator=rng
    )
    extent = torch.tensor([(width, height) for height, width in sizes])
    return centres[None, :, None, None, None] + pixels / extent[:, None]


def off_centre(locations: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Moves locations 0.02 pixel or more away from pixel centres, where their gradient jumps with their rounding."""
    extent = torch.tensor([(width, height) for height, width in sizes])[:, None]
    pixels = locations * extent - 0.5
    low = pixels.floor()
    return (low + (pixels - low).clamp(0.02, 0.98) + 0.5) / extent


def deform(sizes: list[tuple[int, int]], kind: str, batch: int = 1, queries: int = 300) -> Callable[[str], Arguments]:
    """Deformable attention with 8 heads of 32 channels and 4 points per level."""

    def make(device: str) -> Arguments:
        rng = torch.Generator().manual_seed(0)
        heads, points, tokens = 8, 4, sum(height * width for height, width in sizes)
        starts = [0]
        for height, width in sizes[:-1]:
            starts.append(starts[-1] + height * width)
        if kind == "encoder":
            locations = encoder_locations(sizes, batch, heads, points, rng)
        elif kind == "uniform":
            locations = torch.rand(batch, tokens, heads, len(sizes), points, 2, generator=rng) * 1.1 - 0.05
        else:  # decoder: inside random reference boxes
            centre = torch.rand(batch, queries, 1, 1, 1, 2, generator=rng)
            extent = torch.rand(batch, queries, 1, 1, 1, 2, generator=rng) * 0.3
            shape = (batch, queries, heads, len(sizes), points, 2)
            locations = centre + extent * (torch.rand(shape, generator=rng) - 0.5)
        locations = off_centre(locations, sizes)
        value = torch.randn(batch, tokens, heads, 32, generator=rng)
        weights = (
            torch.randn(*locations.shape[:3], len(sizes) * points, generator=rng).softmax(-1).view(locations.shape[:5])
        )
        args = (value, torch.tensor(sizes), torch.tensor(starts), locations.contiguous(), weights.contiguous())
        return tuple(arg.to(device) for arg in args), (0, 3, 4)

    return make


def blend(batch: int, height: int, width: int, instances: int, attn_size: int) -> Callable[[str], Arguments]:
    """Four bases at stride 4; box sides log-uniform in 16 to 500 pixels, boxes inside the image where they fit."""

    def make(device: str) -> Arguments:
        rng = torch.Generator().manual_seed(0)
        sides = torch.exp(torch.empty(instances, 2).uniform_(math.log(16), math.log(500), generator=rng))
        extent = torch.tensor([4.0 * width, 4.0 * height])
        corner = torch.rand(instances, 2, generator=rng) * (extent - sides).clamp(min=0)
        image = torch.randint(batch, (instances, 1), generator=rng).float()
        rois = torch.cat((image, corner, corner + sides), dim=1)
        bases = torch.randn(batch, 4, height, width, generator=rng)
        attn = torch.randn(instances, 4, attn_size, attn_size, generator=rng)
        return (bases.to(device), rois.to(device), attn.to(device), 0.25, 56), (0, 2)

    return make


def sam(regions: int, channels: int) -> Callable[[str], Arguments]:
    """RoI features of 14 x 14 after a ReLU."""

    def make(device: str) -> Arguments:
        rng = torch.Generator().manual_seed(0)
        features = torch.randn(regions, channels, 14, 14, generator=rng).relu()
        weight = torch.randn(1, 2, 3, 3, generator=rng) / 3
        return (features.to(device), weight.to(device)), (0, 1)

    return make


def small(device: str) -> Arguments:
    """The unit-test shape of deformable attention: two images, 40 queries, 4 heads of 16 channels."""
    rng = torch.Generator().manual_seed(0)
    sizes = [(8, 10), (4, 5)]
    value = torch.randn(2, 100, 4, 16, generator=rng)
    locations = off_centre(torch.rand(2, 40, 4, 2, 4, 2, generator=rng), sizes)
    weights = torch.rand(2, 40, 4, 2, 4, generator=rng)
    args = (value, torch.tensor(sizes), torch.tensor([0, 80]), locations, weights)
    return tuple(arg.to(device) for arg in args), (0, 3, 4)


SHAPES: dict[str, Callable[[str], Arguments]] = {
    "deform/enc4": deform(ENCODER_4, "encoder"),
    "deform/enc3": deform(ENCODER_4[:3], "encoder"),
    "deform/dec4": deform(ENCODER_4, "decoder"),
    "deform/dec3": deform(ENCODER_4[:3], "decoder"),
    "deform/train2": deform(TRAIN_4, "encoder", batch=2),
    "deform/enc4_uniform": deform(ENCODER_4, "uniform"),
    "deform/small": small,
    "blend/n100": blend(1, 200, 336, 100, 14),
    "blend/n20": blend(1, 200, 336, 20, 14),
    "blend/rt100": blend(1, 136, 184, 100, 7),
    "blend/train": blend(4, 200, 336, 128, 14),
    "sam/n100c256": sam(100, 256),
    "sam/n50c128": sam(50, 128),
    "sam/n512c256": sam(512, 256),
}
