import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from pentamask.fcos import FCOS, FCOSHead, add_fcos_config
from pentamask.fcos.head import ModulatedDeformConv, Tower

SHAPES = [(4, 5), (2, 3)]
IMAGES = ImageList(torch.zeros(2, 3, 32, 40), [(32, 40), (30, 32)])


def build(channels=32, num_classes=3, **kwargs):
    head = FCOSHead(
        in_channels=channels,
        num_classes=num_classes,
        num_levels=2,
        num_cls_convs=1,
        num_box_convs=1,
        **kwargs.pop("head", {}),
    )
    return FCOS(
        fcos_head=head,
        in_features=["p3", "p4"],
        strides=[8, 16],
        num_classes=num_classes,
        sizes_of_interest=[16],
        **kwargs,
    )


def features(channels=32):
    torch.manual_seed(0)
    return {name: torch.randn(2, channels, *shape) for name, shape in zip(("p3", "p4"), SHAPES)}


def ground_truth(*boxes_per_image):
    result = []
    for boxes in boxes_per_image:
        gt = Instances((32, 40), gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))
        gt.gt_classes = torch.zeros(len(gt), dtype=torch.long)
        result.append(gt)
    return result


SOME = ground_truth([[2.0, 2.0, 22.0, 20.0]], [[0.0, 0.0, 10.0, 12.0], [4.0, 4.0, 36.0, 30.0]])
NONE = ground_truth([], [])
HALF = ground_truth([], [[0.0, 0.0, 10.0, 12.0]])


@pytest.mark.parametrize("norm", ["GN", "NaiveGN", "BN", "SyncBN", "none"])
def test_head_norms(norm):
    fcos = build(head={"norm": norm})
    names = set(fcos.state_dict())
    assert ("fcos_head.cls_tower.1.1.running_mean" in names) == (norm in ("BN", "SyncBN"))
    results, losses = fcos(IMAGES, features(), SOME)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in fcos.parameters())


def test_unknown_norm_names_the_key():
    with pytest.raises(ValueError, match=r"MODEL\.FCOS\.NORM.*LN"):
        build(head={"norm": "LN"})


def test_batch_norms_are_per_level():
    fcos = build(head={"norm": "BN"})
    fcos(IMAGES, features(), SOME)
    first, second = fcos.fcos_head.cls_tower[1]
    assert not torch.equal(first.running_mean, second.running_mean)


@pytest.mark.parametrize("gt", [SOME, HALF, NONE], ids=["some", "half", "none"])
@pytest.mark.parametrize("box_quality", ["ctrness", "iou"])
def test_losses_are_finite_and_reach_every_parameter(gt, box_quality):
    fcos = build(box_quality=box_quality, head={"use_deformable": True})
    results, losses = fcos(IMAGES, features(), gt, top_module=nn.Conv2d(32, 7, 3, padding=1))
    assert set(losses) == {
        "loss_fcos_cls",
        "loss_fcos_loc",
        f"loss_fcos_{'ctr' if box_quality == 'ctrness' else 'iou'}",
    }
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in fcos.parameters())
    positives = results["positives"]
    assert len(positives.pos_inds) == len(positives.top_feats) == len(positives.gt_ctrs)
    assert (len(positives.pos_inds) > 0) == (gt is not NONE)


def test_the_iou_target_gives_no_gradient_to_boxes():
    fcos = build(box_quality="iou")
    outputs = fcos.fcos_head(list(features().values()))
    reg = outputs.reg[0].detach().requires_grad_()
    losses = fcos.losses(outputs._replace(reg=[reg, outputs.reg[1]]), SOME)[1]
    assert torch.autograd.grad(losses["loss_fcos_iou"], reg, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(losses["loss_fcos_loc"], reg)[0].any()


def test_the_last_convolution_of_a_tower_is_the_deformable_one():
    tower = Tower(32, 3, "none", num_levels=1, last_deformable=True)
    assert [type(layer) for layer in list(tower)[::2]] == [nn.Conv2d, nn.Conv2d, ModulatedDeformConv]


def test_gt_inds_count_over_the_batch():
    results, _ = build()(IMAGES, features(), SOME)
    labels, _, gt_inds = build().label_locations(build().fcos_head(list(features().values())), SOME)
    # Level 0: image 0 then image 1; the background carries the first index of its image.
    assert set(gt_inds[:20].tolist()) == {0} and set(gt_inds[20:40].tolist()) <= {1, 2}
    assert torch.equal((labels != 3).nonzero()[:, 0], results["positives"].pos_inds)


@pytest.mark.parametrize("normalizer, expected", [("fg", 1.0), ("all", 52.0), ("moving_fg", 90.1)])
def test_class_loss_normalisers(normalizer, expected):
    sums = build(cls_normalizer="all").eval()
    fcos = build(cls_normalizer=normalizer)
    sums.load_state_dict(fcos.state_dict())
    outputs = fcos.fcos_head(list(features().values()))
    _, losses = fcos.losses(outputs, NONE)
    _, reference = sums.losses(outputs, NONE)
    assert losses["loss_fcos_cls"].item() == pytest.approx(reference["loss_fcos_cls"].item() * 52 / expected, rel=1e-5)


def test_moving_normaliser_restarts_on_resume():
    assert "moving_num_fg" not in build(cls_normalizer="moving_fg").state_dict()


def test_proposals_in_training():
    fcos = build(yield_proposal=True)
    results, _ = fcos(IMAGES, features(), SOME)
    assert len(results["proposals"]) == 2 and not results["proposals"][0].scores.requires_grad
    detections, losses = fcos.eval()(IMAGES, features())
    assert len(detections) == 2 and losses == {}


def test_half_precision_features_give_float32_detections_and_losses():
    fcos = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, losses = fcos(IMAGES, features(), SOME)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        detections, _ = fcos.eval()(IMAGES, features())
    assert detections[0].scores.dtype == torch.float32


def test_bad_arguments_name_the_keys():
    with pytest.raises(ValueError, match="SIZES_OF_INTEREST"):
        FCOS(fcos_head=nn.Identity(), in_features=["p3"], strides=[8], num_classes=3, sizes_of_interest=[64])
    with pytest.raises(ValueError, match="BOX_QUALITY"):
        build(box_quality="centerness")
    with pytest.raises(ValueError, match="LOSS_NORMALIZER_CLS"):
        build(cls_normalizer="positives")
    with pytest.raises(ValueError, match="instances"):
        build()(IMAGES, features())


def test_config_errors_name_the_keys():
    from detectron2.config import get_cfg

    from pentamask.fcos import add_fcos_config

    cfg = get_cfg()
    add_fcos_config(cfg)
    with pytest.raises(ValueError, match=r"MODEL\.FCOS\.IN_FEATURES.*p6"):
        FCOS(cfg, {"p3": ShapeSpec(channels=256, stride=8)})


def fcos_config(**settings):
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.MODEL.FCOS.update(IN_FEATURES=["p3", "p4"], SIZES_OF_INTEREST=[64], **settings)
    return cfg


LEVELS = {"p3": ShapeSpec(channels=32, stride=8), "p4": ShapeSpec(channels=32, stride=16)}


@pytest.mark.parametrize("given", [[], [8, 16]])
def test_strides_are_the_backbones(given):
    assert FCOS(fcos_config(FPN_STRIDES=given), LEVELS).strides == [8, 16]


def test_other_strides_than_the_backbones_are_refused():
    with pytest.raises(ValueError, match=r"MODEL\.FCOS\.FPN_STRIDES is \[8, 32\], but .* give \[8, 16\]"):
        FCOS(fcos_config(FPN_STRIDES=[8, 32]), LEVELS)


@pytest.mark.parametrize(("wanted", "expected"), [(100, 50), (300, 300), (20, 20)])
def test_detections_per_image_are_obeyed(wanted, expected):
    """Detectron2's default leaves it to the recipe's own number."""
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.MODEL.FCOS.POST_NMS_TOPK_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = 50, wanted
    shapes = {f"p{level}": ShapeSpec(channels=32, stride=2**level) for level in range(3, 8)}
    assert FCOS(cfg, shapes).test_limits.post_nms_topk == expected
