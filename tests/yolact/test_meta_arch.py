import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import nn

SIZE = (64, 80)


def ground_truth(squares=((8, 8, 30), (40, 20, 24)), mask_format="bitmask"):
    gt = Instances(SIZE)
    gt.gt_boxes = Boxes(torch.tensor([[x, y, x + s, y + s] for x, y, s in squares]).float().reshape(-1, 4))
    gt.gt_classes = torch.arange(len(squares))
    corners = [[[x, y, x + s, y, x + s, y + s, x, y + s]] for x, y, s in squares]
    polygons = PolygonMasks([[torch.tensor(p).double().numpy() for p in object_] for object_ in corners])
    gt.gt_masks = polygons if mask_format == "polygon" else BitMasks.from_polygon_masks(polygons, *SIZE)
    return gt


def inputs(*ground_truths, **extra):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    return [{"image": image, "instances": gt, **extra} for gt in ground_truths]


def plus(cfg):
    """YOLACT++: deformable blocks, more anchors, rescoring, which needs prototypes of 63 pixels."""
    node = cfg.MODEL.YOLACT
    node.MASK_IOU.ENABLED, node.MASK_IOU.MIN_AREA, node.IMAGE_SIZE = True, 4, 256
    node.ANCHOR_SCALES = [[32, 40], [64, 80], [128, 160]]
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.RES2_OUT_CHANNELS, resnets.DEFORM_MODULATED = 50, 256, True
    resnets.DEFORM_ON_PER_STAGE, resnets.DEFORM_INTERVAL, resnets.DEFORM_BIAS = [False, True, False, False], 3, True
    return cfg


def without_gradient(model):
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_training_reaches_every_parameter(tiny_cfg, mask_format):
    model = build_model(tiny_cfg).train()
    losses = model(inputs(ground_truth(mask_format=mask_format), ground_truth(((4, 4, 50),), mask_format)))
    assert set(losses) == {"B", "C", "M", "S"}
    sum(losses.values()).backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
def test_images_without_objects(tiny_cfg, counts):
    """Losses stay finite and connected to every parameter, so that distributed training does not hang."""
    model = build_model(tiny_cfg).train()
    squares = ((8, 8, 30), (40, 20, 24))
    losses = model(inputs(*(ground_truth(squares[:n]) for n in counts)))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert without_gradient(model) == []


def test_yolact_plus_trains_and_rescores(tiny_cfg):
    tiny_cfg = plus(tiny_cfg)
    tiny_cfg.TEST.DETECTIONS_PER_IMAGE = 5
    model = build_model(tiny_cfg).train()
    for gt in (ground_truth(), ground_truth(())):
        losses = model(inputs(gt))
        assert set(losses) == {"B", "C", "M", "S", "I"} and (losses["I"] > 0) == (len(gt) > 0)
        model.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        assert without_gradient(model) == []
    with torch.no_grad():
        instances = model.eval()([{"image": inputs(None)[0]["image"]}])[0]["instances"]
    assert instances.mask_scores.shape == instances.scores.shape == (len(instances),)
    tiny_cfg.MODEL.YOLACT.IMAGE_SIZE = 240
    with pytest.raises(ValueError, match="MODEL.YOLACT.IMAGE_SIZE 240 gives prototypes of 60 pixels"):
        build_model(tiny_cfg)


def test_a_pixel_wide_object_and_crowds(tiny_cfg):
    model = build_model(tiny_cfg).train()
    crowd = torch.tensor([[0.0, 0.0, 80.0, 64.0]])
    plain, crowded = (model(inputs(ground_truth(((20, 20, 1),)), **extra)) for extra in ({}, {"crowd_boxes": crowd}))
    assert all(torch.isfinite(loss) for loss in [*plain.values(), *crowded.values()])
    # No background box is left outside the crowd.
    assert crowded["C"] < plain["C"]


def test_targets_are_relative_to_the_size_of_their_image(tiny_cfg):
    gt = ground_truth()
    small = build_model(tiny_cfg)._targets(inputs(gt)[0])
    torch.testing.assert_close(small.boxes[0], torch.tensor([8 / 80, 8 / 64, 38 / 80, 38 / 64]))
    assert small.masks.shape == (2, *SIZE) and small.masks[0].sum() == gt.gt_masks.tensor[0].sum()


def test_preprocessing_stretches_in_floating_point(tiny_cfg):
    tiny_cfg.MODEL.YOLACT.IMAGE_SIZE = 4
    model = build_model(tiny_cfg)
    image = torch.arange(8, dtype=torch.uint8).expand(3, 2, 8)
    pixels = model.preprocess_image([{"image": image}]) * model.pixel_std + model.pixel_mean
    # Half-pixel centres, no antialiasing, no rounding.
    torch.testing.assert_close(pixels[0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]).expand(4, 4))


def test_inference_output(tiny_cfg):
    torch.manual_seed(0)  # with other weights it may find nothing
    tiny_cfg.TEST.DETECTIONS_PER_IMAGE = 7
    model = build_model(tiny_cfg).eval()
    with torch.no_grad():
        results = model([{"image": inputs(None)[0]["image"], "height": 32, "width": 40}] * 2)
    assert len(results) == 2
    instances = results[0]["instances"]
    assert instances.image_size == (32, 40) and 0 < len(instances) <= 7
    assert instances.pred_masks.dtype == torch.bool and instances.pred_masks.shape == (len(instances), 32, 40)
    assert instances.pred_boxes.nonempty().all() and not instances.has("mask_scores")


def test_no_detections(tiny_cfg):
    tiny_cfg.MODEL.YOLACT.SCORE_THRESH_TEST = 1.0
    with torch.no_grad():
        instances = build_model(tiny_cfg).eval()([{"image": inputs(None)[0]["image"]}])[0]["instances"]
    assert len(instances) == 0 and instances.pred_masks.shape == (0, *SIZE)


def test_batch_norm_is_frozen_in_small_batches(tiny_cfg):
    tiny_cfg.SOLVER.IMS_PER_BATCH = 5
    frozen = build_model(tiny_cfg)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())
    tiny_cfg.SOLVER.IMS_PER_BATCH = 6
    trained = build_model(tiny_cfg)
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in trained.modules())
    frozen.load_state_dict(trained.state_dict())
    assert frozen.train() is frozen


@pytest.mark.parametrize(("workers", "is_frozen"), [(1, False), (2, False), (3, True)])
def test_the_batch_of_one_gpu_decides_over_batch_norm(tiny_cfg, monkeypatch, workers, is_frozen):
    """12 images: 12, 6 and 4 a GPU."""
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: workers)
    tiny_cfg.SOLVER.IMS_PER_BATCH = 12
    assert any(isinstance(m, FrozenBatchNorm2d) for m in build_model(tiny_cfg).modules()) == is_frozen


def test_divergence_is_named(tiny_cfg):
    model = build_model(tiny_cfg).train()
    nn.init.constant_(model.proto_net[0].bias, float("inf"))
    with pytest.raises(FloatingPointError, match="prototypes became infinite or NaN: lower SOLVER.BASE_LR"):
        model(inputs(ground_truth()))


def test_autocast_trains(tiny_cfg):
    model = build_model(tiny_cfg).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(inputs(ground_truth()))
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())


def test_training_without_ground_truth_is_refused(tiny_cfg):
    with pytest.raises(ValueError, match="instances"):
        build_model(tiny_cfg).train()([{"image": inputs(None)[0]["image"]}])


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
    assert history[-1] < 0.5 * history[0]
