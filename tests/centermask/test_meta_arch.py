import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage

SIZE = (64, 80)
SQUARES = ((8, 8, 30), (40, 20, 24))
LOSSES = {"loss_mask", "loss_maskiou", "loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}


def square(x, y, side):
    return torch.tensor([x, y, x + side, y, x + side, y + side, x, y + side], dtype=torch.float64).numpy()


def ground_truth(squares=SQUARES, mask_format="polygon"):
    gt = Instances(SIZE)
    gt.gt_boxes = Boxes(torch.tensor([[x, y, x + s, y + s] for x, y, s in squares]).float().reshape(-1, 4))
    gt.gt_classes = torch.arange(len(squares))
    polygons = PolygonMasks([[square(*s)] for s in squares])
    gt.gt_masks = polygons if mask_format == "polygon" else BitMasks.from_polygon_masks(polygons, *SIZE)
    return gt


def inputs(*ground_truths, **extra):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    return [{"image": image, "instances": gt, **extra} for gt in ground_truths]


def training_losses(model, batch):
    with EventStorage():
        return model.train()(batch)


def without_gradient(model, losses):
    sum(losses.values()).backward()
    return [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_training_reaches_every_parameter(tiny_cfg, mask_format):
    model = build_model(tiny_cfg)
    losses = training_losses(
        model, inputs(ground_truth(SQUARES, mask_format), ground_truth(((4, 4, 50),), mask_format))
    )
    assert set(losses) == LOSSES
    assert all(loss > 0 for loss in losses.values())
    assert without_gradient(model, losses) == []


@pytest.mark.parametrize("counts", [(0, 0), (0, 2), (2, 0)])
def test_images_without_objects(tiny_cfg, counts):
    """Losses stay finite and connected to every parameter, so that distributed training does not hang."""
    model = build_model(tiny_cfg)
    losses = training_losses(model, inputs(*(ground_truth(SQUARES[:n]) for n in counts)))
    assert set(losses) == LOSSES
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert without_gradient(model, losses) == []


def test_a_batch_without_objects_has_no_mask_loss(tiny_cfg):
    losses = training_losses(build_model(tiny_cfg), inputs(ground_truth(()), ground_truth(())))
    assert losses["loss_mask"] == losses["loss_maskiou"] == losses["loss_fcos_loc"] == losses["loss_fcos_ctr"] == 0


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_a_pixel_wide_object(tiny_cfg, mask_format):
    losses = training_losses(build_model(tiny_cfg), inputs(ground_truth(((20, 20, 1),), mask_format)))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_polygons_and_bitmasks_give_nearly_the_same_losses(tiny_cfg):
    model = build_model(tiny_cfg)
    polygon, bitmask = (training_losses(model, inputs(ground_truth(SQUARES, f))) for f in ("polygon", "bitmask"))
    for name in ("loss_mask", "loss_maskiou"):
        assert polygon[name].item() == pytest.approx(bitmask[name].item(), rel=2e-2)


def test_ground_truth_without_masks_is_an_error_with_the_remedy(tiny_cfg):
    gt = ground_truth()
    gt.remove("gt_masks")
    with pytest.raises(ValueError, match="gt_masks.*MODEL.MASK_ON False"):
        training_losses(build_model(tiny_cfg), inputs(gt))


def test_without_masks_it_is_a_box_detector(tiny_cfg):
    tiny_cfg.MODEL.MASK_ON = False
    model = build_model(tiny_cfg)
    assert set(training_losses(model, inputs(ground_truth()))) == {x for x in LOSSES if "fcos" in x}
    tiny_cfg.MODEL.FCOS.INFERENCE_TH_TEST = 0.0
    instances = infer(tiny_cfg)["instances"]
    assert len(instances) > 0 and not instances.has("pred_masks")


def test_class_counts_that_disagree_are_refused(tiny_cfg):
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    with pytest.raises(ValueError, match="MODEL.FCOS.NUM_CLASSES is 3 and MODEL.ROI_HEADS.NUM_CLASSES 4"):
        build_model(tiny_cfg)


def test_heads_have_the_classes_of_fcos(tiny_cfg):
    tiny_cfg.MODEL.FCOS.NUM_CLASSES = 5
    heads = build_model(tiny_cfg).roi_heads
    assert heads.num_classes == heads.mask_head.predictor.out_channels == heads.maskiou_head.maskiou.out_features == 5
    assert tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES == 80


def add_p2(cfg):
    """For the heads that start at stride 4."""
    cfg.MODEL.VOVNET.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["stage2", "stage3", "stage4", "stage5"]


def infer(cfg, **extra):
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        model.proposal_generator.fcos_head.bbox_pred.bias.fill_(2)  # boxes that are not empty
        return model([{"image": torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8), **extra}])[0]


def test_inference_output(tiny_cfg):
    tiny_cfg.MODEL.FCOS.INFERENCE_TH_TEST = 0.0
    tiny_cfg.MODEL.FCOS.POST_NMS_TOPK_TEST = 5
    result = infer(tiny_cfg, height=96, width=120)["instances"]
    assert result.image_size == (96, 120)
    assert 0 < len(result) <= 5
    assert result.pred_masks.shape == (len(result), 96, 120) and result.pred_masks.dtype == torch.bool
    assert result.mask_scores.shape == result.scores.shape
    # Boxes are clipped to the image, but not before the masks are predicted.
    assert (result.pred_boxes.tensor >= 0).all()


def test_no_detections(tiny_cfg):
    tiny_cfg.MODEL.FCOS.INFERENCE_TH_TEST = 0.99
    result = infer(tiny_cfg)["instances"]
    assert len(result) == 0
    assert result.pred_masks.shape == (0, *SIZE)
    assert result.mask_scores.shape == (0,)


def test_mask_scores_do_not_change_scores_or_order(tiny_cfg):
    tiny_cfg.MODEL.FCOS.INFERENCE_TH_TEST = 0.0
    scored = infer(tiny_cfg)["instances"]
    tiny_cfg.MODEL.MASKIOU_ON = False
    plain = infer(tiny_cfg)["instances"]
    assert not plain.has("mask_scores")
    assert torch.equal(scored.scores, scored.scores.sort(descending=True).values)
    assert scored.has("mask_scores") and not torch.equal(scored.scores, scored.mask_scores)


def test_key_points(tiny_cfg):
    add_p2(tiny_cfg)
    tiny_cfg.MODEL.KEYPOINT_ON = True
    tiny_cfg.MODEL.FCOS.INFERENCE_TH_TEST = 0.0
    gt = ground_truth()
    points = torch.tensor([[[12.0, 12, 2], [30, 30, 2], [20, 14, 1], [0, 0, 0]], [[0.0, 0, 0]] * 4])
    gt.gt_keypoints = Keypoints(points)
    model = build_model(tiny_cfg)
    losses = training_losses(model, inputs(gt))
    assert set(losses) == LOSSES | {"loss_keypoint"}
    assert without_gradient(model, losses) == []
    assert infer(tiny_cfg)["instances"].pred_keypoints.shape[1:] == (4, 3)


@pytest.mark.parametrize("stuff_only", [False, True])
def test_panoptic(tiny_cfg, stuff_only):
    add_p2(tiny_cfg)
    tiny_cfg.MODEL.META_ARCHITECTURE = "PanopticCenterMask"
    model = build_model(tiny_cfg)
    gt = ground_truth(() if stuff_only else SQUARES)
    losses = training_losses(model, inputs(gt, sem_seg=torch.ones(SIZE, dtype=torch.long)))
    assert set(losses) == LOSSES | {"loss_sem_seg"}
    assert without_gradient(model, losses) == []
    result = infer(tiny_cfg)
    assert result["sem_seg"].shape == (4, *SIZE)
    assert result["panoptic_seg"][0].shape == SIZE


def test_key_points_need_p2(tiny_cfg):
    tiny_cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(ValueError, match=r"\['p2'\].*MODEL.ROI_KEYPOINT_HEAD.IN_FEATURES"):
        build_model(tiny_cfg)


def test_panoptic_refuses_a_weight_that_nothing_reads(tiny_cfg):
    tiny_cfg.MODEL.META_ARCHITECTURE = "PanopticCenterMask"
    tiny_cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT = 0.5
    with pytest.raises(ValueError, match="INSTANCE_LOSS_WEIGHT"):
        build_model(tiny_cfg)
