import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from pentamask.graph import replace_batch_norms


def test_replaced_norms_give_the_same() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(FrozenBatchNorm2d(4))).eval()
    for norm in (layers[0], layers[1][0]):
        for name in ("weight", "bias", "running_mean"):
            getattr(norm, name).data.copy_(torch.randn(4))
        norm.running_var.copy_(torch.rand(4) + 0.5)
    x = torch.randn(3, 4, 5, 6)
    expected = layers(x)
    replace_batch_norms(layers)
    assert not any(isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)) for module in layers.modules())
    torch.testing.assert_close(layers(x), expected)
