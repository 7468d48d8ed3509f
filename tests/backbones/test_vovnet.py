import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from torch import nn

from pentamask.backbones.config import add_backbone_config
from pentamask.backbones.vovnet import (
    SPECS,
    DeformableSpec,
    DeformableUnit,
    EffectiveSE,
    OSABlock,
    VoVNet,
    build_vovnet,
    depthwise_unit,
)

STAGES = ["stem", "stage2", "stage3", "stage4", "stage5"]
DEFORMABLE = dict.fromkeys((3, 4, 5), DeformableSpec())


@pytest.mark.parametrize(
    ("body", "deformable", "millions"),
    [
        ("V-19-slim-dw-eSE", None, 1.38),
        ("V-19-slim-eSE", None, 2.65),
        ("V-19-eSE", None, 10.17),
        ("V-39-eSE", None, 25.16),
        ("V-57-eSE", None, 41.42),
        ("V-99-eSE", None, 69.47),
        ("V-39-eSE", DEFORMABLE, 26.94),
        ("V-57-eSE", DEFORMABLE, 44.41),
        ("V-99-eSE", DEFORMABLE, 74.88),
    ],
)
def test_number_of_parameters(body, deformable, millions):
    with torch.device("meta"):
        model = VoVNet(SPECS[body], 3, "FrozenBN", STAGES, deformable)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("body", ["V-19-slim-dw-eSE", "V-19-dw-eSE", "V-19-slim-eSE"])
def test_shapes_of_the_features(body):
    model = VoVNet(SPECS[body], 3, "FrozenBN", STAGES).eval()
    outputs = model(torch.randn(1, 3, 64, 96))
    assert list(outputs) == STAGES
    for name, shape in model.output_shape().items():
        assert outputs[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_names_of_the_parameters():
    """As in the released files."""
    plain = VoVNet(SPECS["V-39-eSE"], 3, "FrozenBN", STAGES).state_dict()
    assert plain["stem.stem_1/conv.weight"].shape == (64, 3, 3, 3)
    assert plain["stage4.OSA4_2.layers.4.OSA4_2_4/norm.running_var"].shape == (192,)
    assert plain["stage5.OSA5_1.concat.OSA5_1_concat/conv.weight"].shape == (1024, 768 + 5 * 224, 1, 1)
    assert plain["stage2.OSA2_1.ese.fc.bias"].shape == (256,)
    depthwise = VoVNet(SPECS["V-19-slim-dw-eSE"], 3, "FrozenBN", STAGES).state_dict()
    assert depthwise["stem.stem_3/dw_conv3x3.weight"].shape == (64, 1, 3, 3)
    assert depthwise["stage3.OSA3_1.conv_reduction.OSA3_1_reduction_0/conv.weight"].shape == (80, 112, 1, 1)
    assert depthwise["stage3.OSA3_1.layers.0.OSA3_1_0/pw_norm.weight"].shape == (80,)
    assert not any("stage2" in key and "reduction" in key for key in depthwise)
    deformable = VoVNet(SPECS["V-39-eSE"], 3, "FrozenBN", STAGES, DEFORMABLE).state_dict()
    assert deformable["stage3.OSA3_1.layers.0.OSA3_1_0/conv_offset.bias"].shape == (27,)
    assert not any("stage2" in key and "offset" in key for key in deformable)


def test_attention_is_a_hard_sigmoid_of_the_average():
    module = EffectiveSE(3)
    x = torch.randn(2, 3, 4, 5)
    gate = F.relu6(module.fc(x.mean(dim=(2, 3), keepdim=True)) + 3) / 6
    torch.testing.assert_close(module(x), x * gate)


@pytest.mark.parametrize("depthwise", [False, True])
def test_block_joins_the_input_and_all_layers(depthwise):
    """In a depthwise block the unreduced input is joined."""
    block = OSABlock("b", 6, 4, 6, 2, "FrozenBN", depthwise=depthwise).eval()
    x = torch.randn(1, 6, 5, 5)
    first = block.layers[0](block.conv_reduction(x))
    joined = torch.cat((x, first, block.layers[1](first)), dim=1)
    torch.testing.assert_close(block(x), block.ese(block.concat(joined)))
    with_identity = OSABlock("b", 6, 4, 6, 2, "FrozenBN", identity=True, depthwise=depthwise).eval()
    with_identity.load_state_dict(block.state_dict())
    torch.testing.assert_close(with_identity(x), block(x) + x)


def test_only_later_blocks_of_a_stage_have_the_identity():
    stage = VoVNet(SPECS["V-39-eSE"], 3, "FrozenBN", STAGES).stage4
    assert [block.identity for name, block in stage.named_children() if name != "Pooling"] == [False, True]


def test_depthwise_layers_have_one_norm_at_the_end():
    layers = [layer for _, layer in depthwise_unit("d", 4, 8, "FrozenBN")]
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.Conv2d, FrozenBatchNorm2d, nn.ReLU]


@pytest.mark.parametrize(("modulated", "factor"), [(True, 0.5), (False, 1.0)])
def test_deformable_unit_starts_as_a_convolution(modulated, factor):
    """Offsets are 0 and the modulation is one half at first."""
    unit = DeformableUnit("d", 4, 6, "FrozenBN", DeformableSpec(modulated=modulated)).eval()
    x = torch.randn(1, 4, 7, 7)
    expected = F.relu(unit.get_submodule("d/norm")(factor * unit.get_submodule("d/conv")(x)))
    torch.testing.assert_close(unit(x), expected)


def test_deformable_groups_and_gradients():
    unit = DeformableUnit("d", 4, 6, "FrozenBN", DeformableSpec(modulated=True, groups=2))
    unit(torch.randn(1, 4, 7, 7)).sum().backward()
    assert unit.get_submodule("d/conv_offset").weight.shape[0] == 54
    assert unit.get_submodule("d/conv_offset").weight.grad.abs().sum() > 0


def config(**keys):
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.VOVNET.CONV_BODY = "V-19-slim-eSE"
    cfg.merge_from_list([x for key, value in keys.items() for x in (f"MODEL.{key.replace('__', '.')}", value)])
    return cfg


def trainable(cfg):
    return {name for name, p in build_vovnet(cfg, ShapeSpec(channels=3)).named_parameters() if p.requires_grad}


def test_frozen_stages():
    everything = trainable(config(BACKBONE__FREEZE_AT=0))
    assert any(name.startswith("stem") for name in everything)
    rest = trainable(config(BACKBONE__FREEZE_AT=2))
    assert rest == {name for name in everything if not name.startswith(("stem", "stage2"))}


def test_batch_norm_is_frozen_from_0_on():
    free = trainable(config(BACKBONE__FREEZE_AT=-1, VOVNET__NORM="BN"))
    frozen = trainable(config(BACKBONE__FREEZE_AT=0, VOVNET__NORM="BN"))
    assert frozen == {name for name in free if "/norm" not in name} < free


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"VOVNET__CONV_BODY": "V-40-eSE"}, "CONV_BODY is 'V-40-eSE'.*V-39-eSE"),
        ({"VOVNET__OUT_FEATURES": ["res2"]}, r"OUT_FEATURES names \['res2'\].*stage5"),
        (
            {"VOVNET__CONV_BODY": "V-19-dw-eSE", "VOVNET__STAGE_WITH_DCN": (False, True, True, True)},
            "STAGE_WITH_DCN: a depthwise VoVNet",
        ),
    ],
)
def test_errors_name_the_key(keys, message):
    with pytest.raises(ValueError, match=message):
        build_vovnet(config(**keys), ShapeSpec(channels=3))
