"""RoIAlign over levels against torchvision's."""

import pytest
import torch
from torch import Tensor

from pentamask.ops import has_compiled_ops, reference
from pentamask.ops.roi_align import roi_align_levels

pytestmark = pytest.mark.skipif(not has_compiled_ops(), reason="the compiled ops are not built")


def arguments(channels: int, regions: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor, list[float]]:
    """Boxes inside, across the border, outside, reversed and without area."""
    rng = torch.Generator().manual_seed(channels)
    maps = [torch.randn(2, channels, *size, generator=rng, dtype=dtype) for size in ((20, 31), (10, 16), (1, 1))]
    corners = torch.rand(regions, 2, generator=rng, dtype=dtype) * 150 - 20
    others = corners + torch.rand(regions, 2, generator=rng, dtype=dtype) * 90 - 15
    others[::7] = corners[::7]
    image = torch.randint(2, (regions, 1), generator=rng).to(dtype)
    levels = torch.randint(3, (regions,), generator=rng)
    return maps, torch.cat([image, corners, others], dim=1), levels, [1 / 4, 1 / 8, 1 / 128]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_equals_torchvision(sampling_ratio: int, aligned: bool, dtype: torch.dtype) -> None:
    for channels, size in ((1, 7), (20, 3), (64, 14)):
        maps, rois, levels, scales = arguments(channels, 60, dtype)
        if sampling_ratio == 0:  # torchvision fails on reversed boxes
            rois[:, 3:] = rois[:, 3:].maximum(rois[:, 1:3])
        expected = reference.roi_align_levels(maps, rois, levels, scales, size, sampling_ratio, aligned)
        for layout in (torch.contiguous_format, torch.channels_last):
            laid_out = [x.contiguous(memory_format=layout) for x in maps]
            actual = roi_align_levels(laid_out, rois, levels, scales, size, sampling_ratio, aligned)
            tolerance = 1e-5 if dtype == torch.float32 else 1e-12
            torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
            assert actual.is_contiguous(memory_format=torch.channels_last)


def test_no_regions_and_opcheck() -> None:
    maps, rois, levels, scales = arguments(8, 5, torch.float32)
    assert roi_align_levels(maps, rois[:0], levels[:0], scales, 7, 0, True).shape == (0, 8, 7, 7)
    torch.library.opcheck(
        torch.ops.pentamask.roi_align_levels.default,
        (maps, rois, levels, scales, 7, 0, True),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_coordinates_that_are_not_finite_read_nothing() -> None:
    maps, rois, levels, scales = arguments(8, 9, torch.float32)
    for i, number in enumerate([float("nan"), float("inf"), -float("inf"), 3e38]):
        rois[i, 1 + i % 4] = number
    assert roi_align_levels(maps, rois, levels, scales, 4, 2, True)[4:].isfinite().all()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda maps, rois, levels: (maps, rois + 2, levels), "image and level"),
        (lambda maps, rois, levels: (maps, rois, levels - 1), "image and level"),
        (lambda maps, rois, levels: (maps, rois[:, :4], levels), "`rois`"),
        (lambda maps, rois, levels: (maps, rois, levels.float()), "`levels`"),
        (lambda maps, rois, levels: (maps, rois, levels[1:]), "`levels`"),
        (lambda maps, rois, levels: (maps[:2], rois, levels), "`scales`"),
        (lambda maps, rois, levels: ([*maps[:2], maps[2][:, :3]], rois, levels), "`maps`"),
    ],
)
def test_wrong_arguments(change, error: str) -> None:
    maps, rois, levels, scales = arguments(8, 9, torch.float32)
    with pytest.raises((ValueError, TypeError), match=error):
        roi_align_levels(*change(maps, rois, levels), scales, 7, 0, True)
