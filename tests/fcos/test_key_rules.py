"""Names of the first FCOS repository's files."""

import pytest

from pentamask.fcos.key_rules import FCOS_KEY_RULES


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("module.backbone.body.stem.conv1.weight", "backbone.bottom_up.stem.conv1.weight"),
        ("module.backbone.body.stem.bn1.running_var", "backbone.bottom_up.stem.conv1.norm.running_var"),
        ("backbone.body.layer1.0.downsample.0.weight", "backbone.bottom_up.res2.0.shortcut.weight"),
        ("backbone.body.layer2.0.downsample.1.bias", "backbone.bottom_up.res3.0.shortcut.norm.bias"),
        ("backbone.body.layer4.2.bn3.weight", "backbone.bottom_up.res5.2.conv3.norm.weight"),
        ("backbone.fpn.fpn_inner2.bias", "backbone.fpn_lateral3.bias"),
        ("backbone.fpn.fpn_inner4.weight", "backbone.fpn_lateral5.weight"),
        ("backbone.fpn.fpn_layer2.bias", "backbone.fpn_output3.bias"),
        ("backbone.fpn.fpn_layer4.weight", "backbone.fpn_output5.weight"),
        ("backbone.fpn.top_blocks.p7.weight", "backbone.top_block.p7.weight"),
        ("rpn.head.centerness.weight", "proposal_generator.fcos_head.ctrness.weight"),
        ("rpn.head.scales.3.scale", "proposal_generator.fcos_head.scales.3.scale"),
        ("proposal_generator.fcos_head.centerness.bias", "proposal_generator.fcos_head.ctrness.bias"),
    ],
)
def test_names_of_older_files(theirs, ours):
    assert FCOS_KEY_RULES.rename(theirs) == ours
    assert FCOS_KEY_RULES.rename(ours) == ours


@pytest.mark.parametrize(
    "name",
    [
        "backbone.bottom_up.level2.tree1.bn1.weight",  # DLA
        "backbone.bottom_up.base_layer.1.running_var",
        "backbone.bottom_up.stage3.OSA3_1.layers.0.OSA3_1_0/norm.weight",  # VoVNet
    ],
)
def test_names_of_other_bodies_stay(name):
    assert FCOS_KEY_RULES.rename(name) == name
