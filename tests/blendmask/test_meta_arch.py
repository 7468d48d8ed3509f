from unittest import mock

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from pentamask.blendmask.basis_module import basis_sem_from_instances

SIZE = (64, 80)


def square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def ground_truth(squares=((8, 8, 30), (40, 20, 24)), mask_format="polygon"):
    gt = Instances(SIZE)
    gt.gt_boxes = Boxes(torch.tensor([[x, y, x + s, y + s] for x, y, s in squares]).float().reshape(-1, 4))
    gt.gt_classes = torch.arange(len(squares))
    polygons = PolygonMasks([[torch.tensor(p, dtype=torch.float64).numpy() for p in square(*s)] for s in squares])
    gt.gt_masks = polygons if mask_format == "polygon" else BitMasks.from_polygon_masks(polygons, *SIZE)
    return gt


def inputs(*ground_truths, **extra):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    return [{"image": image, "instances": gt, **extra} for gt in ground_truths]


LOSSES = {"loss_basis_sem", "loss_mask", "loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_training_reaches_every_parameter(tiny_cfg, mask_format):
    model = build_model(tiny_cfg).train()
    losses = model(inputs(ground_truth(mask_format=mask_format), ground_truth(((4, 4, 50),), mask_format)))
    assert set(losses) == LOSSES
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("counts", [(0, 0), (0, 2), (2, 0)])
def test_images_without_objects(tiny_cfg, counts):
    """Losses stay finite and connected to every parameter, so that distributed training does not hang."""
    model = build_model(tiny_cfg).train()
    squares = ((8, 8, 30), (40, 20, 24))
    losses = model(inputs(*(ground_truth(squares[:n]) for n in counts)))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_pixel_wide_object(tiny_cfg):
    losses = build_model(tiny_cfg).train()(inputs(ground_truth(((20, 20, 1),))))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_mask_loss_of_polygons_and_bitmasks_agree(tiny_cfg):
    model = build_model(tiny_cfg).train()
    losses = [model(inputs(ground_truth(mask_format=f)))["loss_mask"].item() for f in ("polygon", "bitmask")]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_basis_sem_is_made_from_instances_when_absent(tiny_cfg):
    model = build_model(tiny_cfg).train()
    gt = ground_truth()
    made = model(inputs(gt))["loss_basis_sem"]
    given = model(inputs(gt, basis_sem=basis_sem_from_instances(gt, SIZE)))["loss_basis_sem"]
    zeros = model(inputs(gt, basis_sem=torch.zeros(SIZE, dtype=torch.long)))["loss_basis_sem"]
    assert made.item() == given.item() != zeros.item()


def test_basis_sem_from_instances_later_objects_cover_earlier_ones():
    target = basis_sem_from_instances(ground_truth(((0, 0, 20), (10, 10, 20))), SIZE)
    assert target[5, 5] == 1 and target[15, 15] == 2 and target[40, 40] == 0
    assert basis_sem_from_instances(ground_truth(()), SIZE).sum() == 0


def test_inference_output(tiny_cfg):
    tiny_cfg.MODEL.FCOS.INFERENCE_TH_TEST = 0.0
    tiny_cfg.MODEL.FCOS.POST_NMS_TOPK_TEST = 5
    model = build_model(tiny_cfg).eval()
    torch.nn.init.constant_(model.proposal_generator.fcos_head.bbox_pred.bias, 1.0)
    with torch.no_grad():
        result = model([{"image": inputs(None)[0]["image"], "height": 32, "width": 40}])[0]
    instances = result["instances"]
    assert instances.image_size == (32, 40) and len(instances) > 0
    assert instances.pred_masks.dtype == torch.bool and instances.pred_masks.shape == (len(instances), 32, 40)
    assert set(result) == {"instances"} and not instances.has("top_feat")


def test_no_detections(tiny_cfg):
    tiny_cfg.MODEL.FCOS.INFERENCE_TH_TEST = 1.0
    with torch.no_grad():
        instances = build_model(tiny_cfg).eval()([{"image": inputs(None)[0]["image"]}])[0]["instances"]
    assert len(instances) == 0 and instances.pred_masks.shape == (0, *SIZE)


@pytest.fixture
def panoptic_cfg(tiny_cfg):
    tiny_cfg.MODEL.RESNETS.OUT_FEATURES = tiny_cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    tiny_cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED = True
    return tiny_cfg


def test_panoptic(panoptic_cfg):
    panoptic_cfg.MODEL.FCOS.INFERENCE_TH_TEST = 0.0
    model = build_model(panoptic_cfg).train()
    with pytest.raises(ValueError, match="sem_seg"):
        model(inputs(ground_truth()))
    losses = model(inputs(ground_truth(), sem_seg=torch.ones(SIZE, dtype=torch.long)))
    assert set(losses) == LOSSES | {"loss_sem_seg"}
    with torch.no_grad():
        result = model.eval()([{"image": inputs(None)[0]["image"], "height": 32, "width": 40}])[0]
    assert result["sem_seg"].shape == (4, 32, 40)
    assert result["panoptic_seg"][0].shape == (32, 40)


def test_padding_is_ignored_by_the_semantic_loss_and_background_of_the_bases(panoptic_cfg):
    model = build_model(panoptic_cfg).train()
    seen = {}
    model.panoptic_module.register_forward_pre_hook(lambda m, args: seen.update(sem_seg=args[1]))
    maps = dict.fromkeys(("sem_seg", "basis_sem"), torch.ones(SIZE, dtype=torch.long))
    with mock.patch.object(model.basis_module, "losses", wraps=model.basis_module.losses) as losses:
        model(inputs(ground_truth(), **maps))
    # 80 columns are padded to 96.
    for padded, value in ((seen["sem_seg"], 255), (losses.call_args.args[1], 0)):
        assert padded.shape == (1, 64, 96)
        assert (padded[..., :80] == 1).all() and (padded[..., 80:] == value).all()


def test_panoptic_thresholds_are_those_of_the_config(panoptic_cfg):
    """Columns of 8: the second instance has 3 of its 5 columns to itself, the third scores too low; 4 columns of stuff
    1 remain, and 2 of stuff 2, which are too few."""
    combine = panoptic_cfg.MODEL.PANOPTIC_FPN.COMBINE
    combine.OVERLAP_THRESH, combine.INSTANCES_CONFIDENCE_THRESH, combine.STUFF_AREA_LIMIT = 0.45, 0.3, 20
    detections = Instances((8, 13))
    detections.pred_boxes = Boxes(torch.tensor([[0.0, 0, 4, 8], [2, 0, 7, 8], [7, 0, 9, 8]]))
    detections.scores, detections.pred_classes = torch.tensor([0.9, 0.4, 0.2]), torch.tensor([0, 1, 2])
    detections.pred_masks = torch.ones(3, 1, 28, 28)
    sem_seg = torch.zeros(1, 4, 8, 13)
    sem_seg[:, 1, :, 7:11] = sem_seg[:, 2, :, 11:] = sem_seg[:, 0, :, :7] = 1
    (result,) = build_model(panoptic_cfg)._postprocess([{}], [(8, 13)], [detections], sem_seg)
    ids, segments = result["panoptic_seg"]
    assert ids[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 0, 0]
    assert [(s["isthing"], s["category_id"]) for s in segments] == [(True, 0), (True, 1), (False, 1)]


def test_attention_starts_small(tiny_cfg):
    top_layer = build_model(tiny_cfg).top_layer
    assert top_layer.weight.std().item() == pytest.approx(0.01, rel=0.05) and not top_layer.bias.any()


def test_visualize_adds_bases_and_the_semantic_map_of_each_image(tiny_cfg):
    tiny_cfg.MODEL.BLENDMASK.VISUALIZE = True
    model = build_model(tiny_cfg).eval()
    image = inputs(None)[0]["image"]
    with torch.no_grad():
        results = model([{"image": image}, {"image": image[:, :48], "height": 96, "width": 160}])
    # Both are padded to 64 x 96, and the bases have stride 4.
    assert [r["bases"].shape for r in results] == [(4, 16, 24)] * 2
    assert results[0]["sem_thing_seg"].shape == (4, *SIZE) and results[1]["sem_thing_seg"].shape == (4, 96, 160)


def test_training_without_ground_truth_is_refused(tiny_cfg):
    with pytest.raises(ValueError, match="instances"):
        build_model(tiny_cfg).train()([{"image": inputs(None)[0]["image"]}])


def test_sync_batch_norm_needs_no_process_group(tiny_cfg):
    tiny_cfg.MODEL.RESNETS.NORM = tiny_cfg.MODEL.FCOS.NORM = tiny_cfg.MODEL.BASIS_MODULE.NORM = "SyncBN"
    losses = build_model(tiny_cfg).train()(inputs(ground_truth(), ground_truth()))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_few_steps_overfit_one_image(tiny_cfg):
    torch.manual_seed(1)
    model = build_model(tiny_cfg).train()
    batch = inputs(ground_truth())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    history = []
    for _ in range(15):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.7 * history[0]
