"""Deformable attention: pixel centres, hostile locations, the published signature, mixed types."""

import pytest
import torch
import torch.nn.functional as F
from op_samples import DEVICES, OUTSIDE_LEVELS, assert_near, deform_args, outside_level, run

from pentamask import ops
from pentamask.ops import reference

devices = pytest.mark.parametrize("device", DEVICES)
GRADS = (0, 3, 4)


def grid(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One head of one channel whose pixel (row, column) holds 10 row + column, and locations in pixels to 0-1."""
    value = (10.0 * torch.arange(height)[:, None] + torch.arange(width)).reshape(1, height * width, 1, 1)
    return value, torch.tensor([float(width), float(height)])


def sample(points: list[tuple[float, float]], height: int = 3, width: int = 4) -> list[float]:
    """Values at (x, y) in pixels, one query per point."""
    value, extent = grid(height, width)
    locations = ((torch.tensor(points) + 0.5) / extent).view(1, len(points), 1, 1, 1, 2)
    shapes, starts = torch.tensor([[height, width]]), torch.tensor([0])
    return ops.ms_deform_attn(value, shapes, starts, locations, torch.ones(1, len(points), 1, 1, 1)).flatten().tolist()


def test_values_by_hand() -> None:
    points = [(0, 0), (3, 2), (1.5, 0), (1, 0.5), (0.25, 1.75), (-0.5, 1), (3.25, 2), (-1, 0), (4, 0), (1, 2.5)]
    # Inside: bilinear. Half outside: the pixel inside times its share. A whole pixel outside: nothing.
    expected = [0, 23, 1.5, 6, 17.75, 5, 0.75 * 23, 0, 0, 0.5 * 21]
    torch.testing.assert_close(torch.tensor(sample(points)), torch.tensor(expected), rtol=0, atol=2e-5)


def test_equals_grid_sample() -> None:
    value, shapes, starts, locations, weights = deform_args([(9, 11), (4, 6)], 2, 30, 2, 8, 3)
    expected = 0
    for level, (height, width) in enumerate(shapes.tolist()):
        features = value[:, starts[level] : starts[level] + height * width]
        features = features.permute(0, 2, 3, 1).reshape(4, 8, height, width)
        points = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        samples = F.grid_sample(features, points, padding_mode="zeros", align_corners=False)
        expected = expected + (samples * weights[:, :, :, level].transpose(1, 2).reshape(4, 1, 30, 3)).sum(-1)
    actual = ops.ms_deform_attn(value, shapes, starts, locations, weights)
    torch.testing.assert_close(actual, expected.view(2, 16, 30).transpose(1, 2), rtol=1e-5, atol=1e-5)


@devices
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 5.0])
def test_far_and_non_finite_locations_give_zero(number: float, device: str) -> None:
    value, shapes, starts, locations, weights = (t.to(device) for t in deform_args([(5, 6)], 1, 6, 2, 8, 2))
    locations[:, 1::2, :, :, 0, 0] = number
    locations[:, ::2, :, :, 0, 1] = number
    out, *grads = run(ops.ms_deform_attn, (value, shapes, starts, locations, weights), GRADS)
    weights[..., 0] = 0
    assert_near([out], [reference.ms_deform_attn(value, shapes, starts, locations, weights).double()], 1e-6)
    assert bool((grads[1][:, :, :, :, 0] == 0).all()) and bool((grads[2][..., 0] == 0).all())
    assert bool(grads[0].isfinite().all())


def test_a_pixel_outside_reads_nothing() -> None:
    value, shapes, starts, locations, weights = deform_args([(3, 3)], 1, 4, 1, 8, 1)
    value[:, 0] = float("nan")
    locations.fill_(1.1)  # near the last pixel: the corners outside must not read the first
    assert bool(ops.ms_deform_attn(value, shapes, starts, locations, weights).isfinite().all())


def test_im2col_step_changes_nothing() -> None:
    args = deform_args([(4, 5)], 3, 7, 2, 4, 2)
    assert torch.equal(ops.ms_deform_attn(*args, 64), ops.ms_deform_attn(*args))
    assert torch.equal(ops.ms_deform_attn(*args, im2col_step=2), ops.ms_deform_attn(*args))


@devices
@pytest.mark.parametrize("weights_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("locations_type", [torch.float32, torch.bfloat16])
def test_mixed_types(weights_type: torch.dtype, locations_type: torch.dtype, device: str) -> None:
    value, shapes, starts, locations, weights = (t.to(device) for t in deform_args([(4, 5), (2, 2)], 1, 7, 2, 8, 2))
    args = (value.bfloat16(), shapes, starts, locations.to(locations_type), weights.to(weights_type))
    out, *grads = run(ops.ms_deform_attn, args, GRADS)
    assert [t.dtype for t in (out, *grads)] == [torch.bfloat16, torch.bfloat16, locations_type, weights_type]
    exact = (args[0].double(), shapes, starts, args[3].double(), args[4].double())
    assert_near([out], [reference.ms_deform_attn(*exact).cpu()], 2 * torch.finfo(torch.bfloat16).eps)


def test_levels_may_lie_in_any_order() -> None:
    value, shapes, starts, locations, weights = deform_args([(4, 5), (2, 3)], 1, 7, 2, 4, 2)
    swapped = torch.cat((value[:, 20:], value[:, :20]), dim=1)
    actual = ops.ms_deform_attn(swapped, shapes, torch.tensor([6, 0]), locations, weights)
    assert torch.equal(actual, ops.ms_deform_attn(value, shapes, starts, locations, weights))


@devices
@pytest.mark.parametrize("level", OUTSIDE_LEVELS)
def test_a_level_outside_value_is_never_read(level: tuple, device: str) -> None:
    """The second of two levels is right; a GPU, where checking would stall the stream, takes the first as zeros."""
    args, expected = outside_level(*level)
    if device == "cpu":
        with pytest.raises(ValueError, match=r"level 0 of `spatial_shapes` .* does not fit into the 54 tokens"):
            ops.ms_deform_attn(*args)
        return
    assert_near(run(ops.ms_deform_attn, tuple(tensor.to(device) for tensor in args), GRADS), expected, 5e-5)
