"""Spatial attention: the order of mean and maximum, ties, NaN, layouts."""

import pytest
import torch
from op_samples import DEVICES, assert_near, run, sam_args

from pentamask import ops
from pentamask.ops import reference

devices = pytest.mark.parametrize("device", DEVICES)


@devices
def test_the_mean_comes_first(device: str) -> None:
    features = torch.tensor([1.0, 3.0, 8.0], device=device).view(1, 3, 1, 1)
    for channel, expected in ((0, 4.0), (1, 8.0)):
        weight = torch.zeros(1, 2, 3, 3, device=device)
        weight[0, channel, 1, 1] = 0.5
        gate = torch.sigmoid(torch.tensor(0.5 * expected, device=device))
        torch.testing.assert_close(ops.spatial_attention(features, weight), features * gate)


@devices
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_tie_gives_its_gradient_to_the_lowest_channel(layout: torch.memory_format, device: str) -> None:
    features = torch.zeros(1, 70, 2, 2, device=device)
    features[0, 5, 0, 0] = features[0, 65, 0, 0] = 2.0
    features = features.contiguous(memory_format=layout)
    weight = torch.zeros(1, 2, 3, 3, device=device)
    weight[0, 1, 1, 1] = 1.0
    _, grad = run(ops.spatial_attention, (features, weight), (0,))
    _, expected = run(reference.spatial_attention, (features, weight), (0,))
    torch.testing.assert_close(grad, expected)
    _, _, argmax = torch.ops.pentamask._spatial_attention_forward(features, weight)
    assert argmax.flatten().tolist() == [5, 0, 0, 0]


@devices
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nan_spreads_to_the_neighbourhood(layout: torch.memory_format, device: str) -> None:
    features, weight = (t.to(device) for t in sam_args(1, 40, (6, 6)))
    features[0, 17, 2, 2] = features[0, 21, 2, 2] = float("nan")
    out = ops.spatial_attention(features.contiguous(memory_format=layout), weight)
    touched = torch.zeros(6, 6, dtype=torch.bool, device=device)
    touched[1:4, 1:4] = True
    assert torch.equal(out.isnan().all(dim=1)[0], touched)
    torch.testing.assert_close(out, reference.spatial_attention(features, weight), equal_nan=True)
    _, _, argmax = torch.ops.pentamask._spatial_attention_forward(features.contiguous(memory_format=layout), weight)
    assert argmax[0, 0, 2, 2] == 17


@devices
@pytest.mark.parametrize("shape", [(4, 19, 7, 6), (2, 300, 14, 14), (1, 3, 30, 41), (2, 1, 5, 5)])
def test_channels_last_is_kept(shape: tuple, device: str) -> None:
    features, weight = (t.to(device) for t in sam_args(shape[0], shape[1], shape[2:]))
    last = features.contiguous(memory_format=torch.channels_last)
    assert ops.spatial_attention(last, weight).is_contiguous(memory_format=torch.channels_last)
    assert ops.spatial_attention(features, weight).is_contiguous()
    for actual, expected in zip(
        run(ops.spatial_attention, (last, weight), (0, 1)), run(ops.spatial_attention, (features, weight), (0, 1))
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@devices
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_a_gate_near_one_keeps_its_slope(dtype: torch.dtype, tolerance: float, device: str) -> None:
    """The slope gate * (1 - gate) has no digits left where the gate is rounded to 16 bit."""
    rng = torch.Generator().manual_seed(1)
    features = torch.randn(4, 256, 14, 14, generator=rng).to(device, dtype)
    weight = torch.randn(1, 2, 3, 3, generator=rng).to(device, dtype)
    exact = run(ops.spatial_attention, (features.double(), weight.double()), (0, 1))
    actual = run(ops.spatial_attention, (features, weight), (0, 1))
    assert_near(actual, [tensor.cpu() for tensor in exact], tolerance)
    assert torch.ops.pentamask._spatial_attention_forward(features, weight)[1].dtype == torch.float32


@devices
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channel", [-1, 19, 2**40, -(2**63)])
def test_a_maximum_at_a_channel_that_does_not_exist(channel: int, layout: torch.memory_format, device: str) -> None:
    features, weight = (tensor.to(device) for tensor in sam_args(2, 19, (5, 4)))
    features = features.contiguous(memory_format=layout)
    out, gate, argmax = torch.ops.pentamask._spatial_attention_forward(features, weight)
    argmax[1, 0, 4, 3] = channel
    if device == "cpu":
        with pytest.raises(ValueError, match=r"expected `argmax` in \[0, 19\), got " + str(channel)):
            torch.ops.pentamask.spatial_attention_backward(torch.ones_like(out), features, weight, gate, argmax)
        return
    grads = torch.ops.pentamask.spatial_attention_backward(torch.ones_like(out), features, weight, gate, argmax)
    assert all(bool(grad.isfinite().all()) for grad in grads)
