"""Layers with packed weights against PyTorch's own in float64, and against their plain versions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pentamask.ops import has_compiled_ops, reference
from pentamask.ops.packed import pack_matrix, pack_winograd_weight, packed_linear, winograd_conv3x3

needs_ops = pytest.mark.skipif(not has_compiled_ops(), reason="the compiled ops are not built")
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}


def assert_near(actual: Tensor, exact: Tensor, tolerance: float) -> None:
    assert actual.shape == exact.shape
    if exact.numel():
        assert (actual - exact).abs().max().item() <= tolerance * max(exact.abs().max().item(), 1.0)


def linear_args(rows: tuple[int, ...], depth: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(depth)
    shapes = ((*rows, depth), (columns, depth), (columns,), (*rows, columns))
    x, weight, bias, residual = (torch.randn(shape, generator=rng, dtype=dtype) for shape in shapes)
    return x, weight / max(depth, 1) ** 0.5, bias, residual


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [
        ((1,), 1, 1),
        ((7, 5), 33, 12),
        ((2, 3), 64, 80),
        ((200,), 130, 67),
        ((19,), 1100, 96),
        ((0,), 5, 3),
        ((4,), 0, 6),
    ],
)
def test_linear(rows: tuple[int, ...], depth: int, columns: int, dtype: torch.dtype) -> None:
    x, weight, bias, residual = linear_args(rows, depth, columns, dtype)
    packed = pack_matrix(weight)
    exact = F.linear(x.double(), weight.double(), bias.double())
    for function in (packed_linear, reference.packed_linear):
        assert_near(function(x, packed, columns, bias).double(), exact, TOLERANCE[dtype])
        assert_near(function(x, packed, columns).double(), exact - bias.double(), TOLERANCE[dtype])
        everything = function(x, packed, columns, bias, residual, True)
        assert_near(everything.double(), (exact + residual.double()).relu(), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("images", "channels", "out_channels", "size"),
    [
        (1, 16, 16, (1, 1)),
        (2, 32, 48, (5, 7)),
        (3, 64, 16, (14, 14)),
        (1, 128, 80, (4, 33)),
        (1, 21, 7, (6, 5)),
        (0, 16, 16, (4, 4)),
    ],
)
def test_convolution(images: int, channels: int, out_channels: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(channels)
    x = torch.randn(images, channels, *size, generator=rng, dtype=dtype)
    weight = torch.randn(out_channels, channels, 3, 3, generator=rng, dtype=dtype) / (9 * channels) ** 0.5
    bias = torch.randn(out_channels, generator=rng, dtype=dtype)
    packed = pack_winograd_weight(weight)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    for function in (winograd_conv3x3, reference.winograd_conv3x3):
        for layout in (torch.contiguous_format, torch.channels_last):
            out = function(x.contiguous(memory_format=layout), packed, out_channels, bias)
            assert out.is_contiguous(memory_format=torch.channels_last)
            assert_near(out.double(), exact, 5 * TOLERANCE[dtype])
        assert_near(function(x, packed, out_channels, bias, True).double(), exact.relu(), 5 * TOLERANCE[dtype])
        assert_near(
            function(x, packed, out_channels).double(), exact - bias.double()[:, None, None], 5 * TOLERANCE[dtype]
        )


def test_winograd_matrices_are_those_of_the_definition() -> None:
    """One row: the product of two polynomials, coefficient by coefficient."""
    signal, taps = torch.randn(6, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    numbers = reference._winograd_input_matrix() @ signal * (reference.winograd_weight_matrix() @ taps)
    expected = torch.stack([signal[i : i + 3] @ taps for i in range(4)])
    torch.testing.assert_close(reference._winograd_output_matrix() @ numbers, expected)


@needs_ops
def test_a_large_map_goes_in_chunks_and_threads() -> None:
    x = torch.randn(1, 256, 70, 120).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3) / 48
    packed, threads = pack_winograd_weight(weight), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(winograd_conv3x3(x, packed, 256))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])
    assert_near(results[0], F.conv2d(x, weight, padding=1), 1e-5)


@needs_ops
def test_non_contiguous_inputs() -> None:
    x, weight, bias, residual = linear_args((9, 8), 20, 24, torch.float32)
    packed = pack_matrix(weight)
    expected = packed_linear(x, packed, 24, bias, residual)
    strided = [torch.stack((t, t), dim=-1)[..., 0] for t in (x, packed, bias, residual)]
    assert torch.equal(packed_linear(strided[0], strided[1], 24, strided[2], strided[3]), expected)


@needs_ops
def test_nan_goes_through_relu() -> None:
    x = torch.full((1, 16), float("nan"))
    assert packed_linear(x, pack_matrix(torch.ones(16, 16)), 16, relu=True).isnan().all()


@needs_ops
def test_opcheck() -> None:
    x, weight, bias, residual = linear_args((3, 4), 20, 24, torch.float32)
    ops, utilities = torch.ops.pentamask, ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        ops.packed_linear.default, (x, pack_matrix(weight), 24, bias, residual, True), test_utils=utilities
    )
    maps = torch.randn(2, 16, 5, 6).contiguous(memory_format=torch.channels_last)
    packed = pack_winograd_weight(torch.randn(32, 16, 3, 3))
    torch.library.opcheck(ops.winograd_conv3x3.default, (maps, packed, 32, None, True), test_utils=utilities)


@needs_ops
def test_there_is_no_gradient() -> None:
    with pytest.raises(NotImplementedError, match="for inference"):
        packed_linear(torch.randn(2, 3, requires_grad=True), pack_matrix(torch.randn(4, 3)), 4).sum().backward()


@needs_ops
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: packed_linear(torch.ones(2, 3), torch.ones(1, 4, 16), 4), "`weight`"),
        (lambda: packed_linear(torch.ones(2, 3), torch.ones(1, 3, 16), 0), "`out_features`"),
        (lambda: packed_linear(torch.ones(2, 3), torch.ones(1, 3, 16).double(), 4), "`weight`"),
        (lambda: packed_linear(torch.ones(2, 3), torch.ones(1, 3, 16), 4, torch.ones(5)), "`bias`"),
        (lambda: packed_linear(torch.ones(2, 3), torch.ones(1, 3, 16), 4, None, torch.ones(3, 4)), "`residual`"),
        (lambda: packed_linear(torch.ones(2, 3).half(), torch.ones(1, 3, 16).half(), 4), "`input`"),
        (lambda: winograd_conv3x3(torch.ones(1, 0, 4, 4), torch.ones(36, 1, 0, 16), 16), "`input`"),
        (lambda: winograd_conv3x3(torch.ones(1, 16, 4, 4), torch.ones(35, 1, 16, 16), 16), "`weight`"),
        (lambda: winograd_conv3x3(torch.ones(16, 4, 4), torch.ones(36, 1, 16, 16), 16), "`input`"),
    ],
)
def test_wrong_arguments(call, error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        call()
