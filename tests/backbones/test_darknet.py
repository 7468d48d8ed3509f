import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec

from pentamask.backbones.config import add_backbone_config
from pentamask.backbones.darknet import build_darknet


def config(**overrides):
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.FPN.IN_FEATURES = ["dark2", "dark3"]
    cfg.MODEL.DARKNET.BLOCKS = [1, 1, 2]
    for key, value in overrides.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def test_strides_and_channels_are_those_announced():
    net = build_darknet(config(), ShapeSpec(channels=3))
    outputs = net(torch.rand(1, 3, 33, 40))
    assert list(outputs) == ["dark2", "dark3"]
    for name, shape in net.output_shape().items():
        expected = (1, shape.channels, -(-33 // shape.stride), -(-40 // shape.stride))
        assert outputs[name].shape == expected
    assert [shape.channels for shape in net.output_shape().values()] == [128, 256]


def test_stages_against_the_formula():
    """Convolutions without bias, leaky ReLU of slope 0.1, and no activation after the sum."""
    net = build_darknet(config(), ShapeSpec(channels=3)).double().eval()
    for name, tensor in net.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_()

    def layer(prefix, x, stride):
        weights = {k.removeprefix(prefix): v for k, v in net.state_dict().items() if k.startswith(prefix)}
        x = F.conv2d(x, weights["0.weight"], stride=stride, padding=weights["0.weight"].shape[-1] // 2)
        x = (x - weights["1.running_mean"].view(-1, 1, 1)) / (weights["1.running_var"].view(-1, 1, 1) + 1e-5).sqrt()
        return torch.where(x > 0, x, 0.1 * x)

    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    x = layer("preconv.", image, 1)
    for stage, blocks in enumerate([1, 1]):
        x = layer(f"layers.{stage}.0.", x, 2)
        for block in range(1, blocks + 1):
            y = layer(f"layers.{stage}.{block}.conv1.", x, 1)
            x = x + layer(f"layers.{stage}.{block}.conv2.", y, 1)
    torch.testing.assert_close(net(image)["dark2"], x)


def test_the_published_depth_has_52_convolutions():
    """Darknet-53 also counts the classifier."""
    blocks = config().clone()
    blocks.MODEL.DARKNET.BLOCKS = [1, 2, 8, 8, 4]
    with torch.device("meta"):
        net = build_darknet(blocks, ShapeSpec(channels=3))
    assert sum(isinstance(m, torch.nn.Conv2d) for m in net.modules()) == 52


def test_unknown_features_and_frozen_stages_are_refused():
    with pytest.raises(ValueError, match="MODEL.FPN.IN_FEATURES.*res3.*dark1"):
        build_darknet(config(MODEL__FPN__IN_FEATURES=["res3"]), ShapeSpec(channels=3))
    with pytest.raises(ValueError, match="MODEL.BACKBONE.FREEZE_AT"):
        build_darknet(config(MODEL__BACKBONE__FREEZE_AT=2), ShapeSpec(channels=3))
