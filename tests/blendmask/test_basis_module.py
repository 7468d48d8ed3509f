import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from pentamask.blendmask import BasisModule, Blender


def build(**kwargs):
    return BasisModule(
        in_features=["p3", "p4"], in_channels=[6, 6], num_bases=4, channels=8, num_convs=2, norm="BN", **kwargs
    )


def features():
    return {"p3": torch.randn(2, 6, 8, 12), "p4": torch.randn(2, 6, 4, 6)}


def test_bases_have_twice_the_resolution_of_the_first_feature():
    assert build()(features()).shape == (2, 4, 16, 24)


@pytest.mark.parametrize("norm, keys", [("BN", 6), ("", 1)])
def test_no_convolution_has_a_bias_but_the_last(norm, keys):
    net = BasisModule(in_features=["p3"], in_channels=[6], channels=8, num_convs=1, norm=norm)
    assert len([k for k in net.state_dict() if k.startswith("refine.0")]) == keys
    assert [k for k in net.state_dict() if k.endswith("0.bias")] == []
    assert "tower.3.bias" in net.state_dict()


def test_semantic_loss_reads_every_eighth_pixel():
    net = build(loss_on=True, num_classes=3, loss_weight=0.5, loss_stride=8)
    x = features()
    target = torch.randint(0, 4, (2, 64, 96))
    expected = 0.5 * F.cross_entropy(net.sem_seg_logits(x), target[:, ::8, ::8])
    assert net.losses(x, target)["loss_basis_sem"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_semantic_head_without_its_loss():
    assert not [k for k in build().state_dict() if k.startswith("seg_head")]


def test_stride_and_classes_follow_from_the_rest(tiny_cfg):
    tiny_cfg.MODEL.FCOS.NUM_CLASSES = 5
    shapes = {"p2": ShapeSpec(channels=6, stride=4), "p3": ShapeSpec(channels=6, stride=8)}
    tiny_cfg.MODEL.BASIS_MODULE.IN_FEATURES = ["p2", "p3"]
    net = BasisModule(tiny_cfg, shapes)
    assert net.loss_stride == 4 and net.seg_head[-1].out_channels == 6
    assert Blender(tiny_cfg, shapes).spatial_scale == 0.5
    tiny_cfg.MODEL.BASIS_MODULE.NUM_CLASSES = 80
    assert BasisModule(tiny_cfg, shapes).seg_head[-1].out_channels == 81
    tiny_cfg.MODEL.BASIS_MODULE.NUM_CLASSES = 4
    with pytest.raises(
        ValueError, match=r"MODEL\.BASIS_MODULE\.NUM_CLASSES is 4, fewer than .* 5: leave the first out"
    ):
        BasisModule(tiny_cfg, shapes)
    tiny_cfg.MODEL.BASIS_MODULE.NUM_CLASSES = 0
    tiny_cfg.MODEL.BASIS_MODULE.COMMON_STRIDE = 8
    with pytest.raises(ValueError, match=r"MODEL\.BASIS_MODULE\.COMMON_STRIDE is 8, but .* give 4"):
        BasisModule(tiny_cfg, shapes)
    tiny_cfg.MODEL.BASIS_MODULE.LOSS_ON = False
    BasisModule(tiny_cfg, shapes)


def test_another_module_is_refused(tiny_cfg):
    tiny_cfg.MODEL.BASIS_MODULE.NAME = "Other"
    with pytest.raises(ValueError, match=r"MODEL\.BASIS_MODULE\.NAME"):
        BasisModule(tiny_cfg, {"p3": ShapeSpec(channels=6, stride=8)})
