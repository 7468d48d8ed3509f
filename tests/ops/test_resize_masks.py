"""Resized masks against F.interpolate."""

import pytest
import torch
import torch.nn.functional as F

from pentamask.ops import has_compiled_ops, reference
from pentamask.ops.resize_masks import resize_masks


@pytest.mark.parametrize("function", [resize_masks, reference.resize_masks])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("count", "size", "out_size"),
    [
        (3, (7, 9), (20, 33)),
        (60, (5, 4), (9, 5)),
        (2, (30, 41), (11, 7)),
        (1, (1, 1), (4, 6)),
        (2, (8, 8), (8, 8)),
        (0, (4, 4), (9, 9)),
    ],
)
def test_equals_interpolation(count: int, size: tuple, out_size: tuple, dtype: torch.dtype, function) -> None:
    masks = torch.rand(count, *size, dtype=dtype, generator=torch.Generator().manual_seed(count))
    inside, sums = function(masks, *out_size, 0.4)
    resized = F.interpolate(masks[:, None], out_size, mode="bilinear", align_corners=False)[:, 0]
    clear = (resized - 0.4).abs() > 1e-6
    assert inside.shape == resized.shape and torch.equal(inside[clear], (resized > 0.4)[clear])
    expected = torch.stack([(resized * inside).sum(dim=(1, 2)), inside.sum(dim=(1, 2)).to(dtype)], dim=1)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)


def test_not_a_number_is_outside() -> None:
    inside, sums = resize_masks(torch.full((1, 2, 2), float("nan")), 4, 4)
    assert not inside.any() and sums[0, 1] == 0


@pytest.mark.skipif(not has_compiled_ops(), reason="the compiled ops are not built")
def test_opcheck_and_wrong_arguments() -> None:
    op = torch.ops.pentamask.resize_masks.default
    utilities = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(op, (torch.rand(2, 3, 4), 5, 6, 0.5), test_utils=utilities)
    for masks, height in ((torch.rand(3, 4), 5), (torch.rand(1, 3, 0), 5), (torch.rand(1, 3, 4), 0)):
        with pytest.raises(ValueError, match="resize_masks"):
            resize_masks(masks, height, 6)
