"""The blender: its definition step by step, boxes at the rim, image indices."""

import pytest
import torch
from op_samples import DEVICES, assert_near, blend_args, run

from pentamask import ops
from pentamask.ops import reference

devices = pytest.mark.parametrize("device", DEVICES)


def direct(*args: object) -> torch.Tensor:
    """The operator below the Python function, as an exported program calls it."""
    return torch.ops.pentamask.blend(*args)


def test_values_by_hand() -> None:
    # Bases 0 and 1 hold x and 10 at scale 1; the box is aligned with pixels 1 .. 4, so samples fall on their centres.
    bases = torch.stack((torch.arange(6.0).expand(5, 6), torch.full((5, 6), 10.0)))[None]
    rois = torch.tensor([[0, 1.0, 1.0, 5.0, 3.0]])
    equal = ops.blend(bases, rois, torch.zeros(1, 2, 1, 1), 1.0, 4)
    torch.testing.assert_close(equal[0], ((torch.arange(4.0) + 1 + 10) / 2).expand(4, 4))
    first = ops.blend(bases, rois, torch.tensor([50.0, 0.0]).view(1, 2, 1, 1), 1.0, 4)
    torch.testing.assert_close(first[0], (torch.arange(4.0) + 1).expand(4, 4))


def test_attention_is_upsampled_before_the_softmax() -> None:
    bases = torch.stack((torch.zeros(4, 4), torch.ones(4, 4)))[None]
    attn = torch.tensor([[0.0, 0.0], [4.0, 0.0]]).view(1, 2, 1, 2).expand(1, 2, 2, 2).contiguous()
    out = ops.blend(bases, torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]]), attn, 1.0, 4)
    torch.testing.assert_close(out[0, 0], torch.sigmoid(torch.tensor([4.0, 3.0, 1.0, 0.0])))


def test_a_reversed_box_mirrors() -> None:
    bases, _, attn, _, _ = blend_args(1, 4, (8, 8), 1, 5, 6)
    box = torch.tensor([[0, 4.0, 3.0, 25.0, 30.0]])
    mirrored = ops.blend(bases, box[:, [0, 3, 2, 1, 4]], attn.flip(3), 0.25, 6)
    torch.testing.assert_close(mirrored, ops.blend(bases, box, attn, 0.25, 6).flip(2), rtol=1e-5, atol=1e-5)


@devices
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_non_finite_boxes_give_zero(number: float, device: str) -> None:
    bases, rois, attn, scale, size = blend_args(1, 4, (8, 8), 4, 5, 6)
    rois[1, 1] = rois[2, 4] = rois[3, 1:] = number
    args = (bases.to(device), rois.to(device), attn.to(device), scale, size)
    out, *grads = run(ops.blend, args, (0, 2))
    assert bool((out[1:] == 0).all()) and bool((grads[1][1:] == 0).all())
    assert_near([out], [reference.blend(*args).double().cpu()], 1e-5)
    assert all(bool(grad.isfinite().all()) for grad in grads)


def test_rois_get_no_gradient() -> None:
    bases, rois, attn, scale, size = blend_args(1, 2, (8, 8), 2, 5, 6)
    rois.requires_grad_()
    ops.blend(bases.requires_grad_(), rois, attn, scale, size).sum().backward()
    assert rois.grad is None and bases.grad is not None


def test_overlapping_boxes_add_up() -> None:
    bases, rois, attn, scale, size = blend_args(1, 3, (8, 8), 1, 5, 6)
    many = (bases, rois.repeat(7, 1), attn.repeat(7, 1, 1, 1), scale, size)
    (grad,) = torch.autograd.grad(ops.blend(bases.requires_grad_(), rois, attn, scale, size).sum(), bases)
    (grads,) = torch.autograd.grad(ops.blend(*many).sum(), bases)
    torch.testing.assert_close(grads, 7 * grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [ops.blend, reference.blend, direct])
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_a_scale_that_is_not_finite_is_refused(function: object, scale: float) -> None:
    args = (torch.ones(1, 2, 4, 4), torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]]), torch.ones(1, 2, 2, 2))
    with pytest.raises(ValueError, match="expected a finite `spatial_scale`, got"):
        function(*args, scale, 4)


@pytest.mark.parametrize("function", [ops.blend, reference.blend])
@pytest.mark.parametrize("scale", [0.0, 1e38, -1e38])
def test_a_scale_that_leads_far_away_is_no_danger(function: object, scale: float) -> None:
    """Boxes whose scaled coordinates overflow count as outside; a scale of 0 takes the first pixel."""
    rois = torch.tensor([[0, 0.0, 0.0, 40.0, 40.0], [0, 30.0, 30.0, 40.0, 40.0]])
    out = function(torch.ones(1, 2, 4, 4), rois, torch.ones(2, 2, 2, 2), scale, 4)
    torch.testing.assert_close(out[1], torch.full((4, 4), 1.0 if scale == 0 else 0.0))
