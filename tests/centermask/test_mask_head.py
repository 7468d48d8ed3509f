import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead

from pentamask.centermask import SpatialAttention, SpatialAttentionMaskHead
from pentamask.centermask.mask_head import mask_loss, select_masks


def test_spatial_attention_weighs_by_mean_then_maximum():
    module = SpatialAttention().double()
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    maps = torch.stack((x.mean(dim=1), x.amax(dim=1)), dim=1)
    gate = F.conv2d(maps, module.conv.weight, padding=1).sigmoid()
    torch.testing.assert_close(module(x), x * gate)


def test_the_gradient_of_a_tied_maximum_goes_to_the_first_channel():
    module = SpatialAttention()
    with torch.no_grad():
        module.conv.weight.zero_()
        module.conv.weight[0, 1, 1, 1] = 1  # the gate is the sigmoid of the maximum
    x = torch.ones(1, 3, 1, 1, requires_grad=True)
    module(x).sum().backward()
    gate = torch.tensor(1.0).sigmoid()
    share = 3 * gate * (1 - gate)
    torch.testing.assert_close(x.grad.flatten(), gate + torch.tensor([1.0, 0, 0]) * share)


def test_without_attention_it_is_detectron2s_head():
    args = {"num_classes": 4, "conv_dims": [8, 8, 8]}
    ours = SpatialAttentionMaskHead(ShapeSpec(channels=6), **args)
    plain = MaskRCNNConvUpsampleHead(ShapeSpec(channels=6), **args)
    plain.load_state_dict({k: v for k, v in ours.state_dict().items() if "spatialAtt" not in k})
    with torch.no_grad():
        ours.spatialAtt.conv.weight.zero_()  # a gate of one half
        ours.deconv.weight.mul_(2)
    x = torch.randn(3, 6, 14, 14)
    torch.testing.assert_close(ours.layers(x), plain.layers(x))
    assert ours.layers(x[:0]).shape == (0, 4, 28, 28)


def test_select_masks():
    logits = torch.randn(3, 4, 2, 2)
    classes = torch.tensor([2, 0, 3])
    assert torch.equal(select_masks(logits, classes), torch.stack([logits[0, 2], logits[1, 0], logits[2, 3]]))
    assert torch.equal(select_masks(logits[:, :1], classes), logits[:, 0])


def test_mask_loss_is_the_mean_cross_entropy():
    logits = torch.tensor([[[0.0, 2.0]], [[-1.0, 0.0]]])
    targets = torch.tensor([[[True, True]], [[False, False]]])
    probs = logits.sigmoid()
    expected = -torch.where(targets, probs, 1 - probs).log().mean()
    torch.testing.assert_close(mask_loss(logits, targets), expected)
