"""The whole model: training on every kind of ground truth, results in Detectron2's formats, loading of files."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

from pentamask.checkpoint.loader import PentamaskCheckpointer

SIZE = (64, 80)
LOSSES = {"loss_cls", "loss_bbox", "loss_iou", "d0.loss_cls", "d0.loss_bbox", "d0.loss_iou"}
LOSSES |= {"loss_mask_things", "d0.loss_mask_things_f", "d0.loss_cls_f", "d0.loss_bbox_f", "d0.loss_iou_f"}
LOSSES |= {"loss_mask_stuff", "d0.loss_mask_stuff_f", "d1.loss_mask_stuff_f", "d0.loss_cls_stuff_f"}
LOSSES |= {"d1.loss_cls_stuff_f"}

THINGS = ((0, 8, 8, 30, 20), (2, 40, 20, 24, 30))
STUFF = ((3, 0, 0, 80, 30), (4, 0, 30, 80, 34))


def ground_truth(*segments, size=SIZE):
    """Rectangles (class, x, y, width, height)."""
    gt = Instances(size)
    gt.gt_classes = torch.tensor([s[0] for s in segments], dtype=torch.int64)
    gt.gt_boxes = Boxes(torch.tensor([[x, y, x + w, y + h] for _, x, y, w, h in segments]).float().reshape(-1, 4))
    masks = torch.zeros((len(segments), *size), dtype=torch.bool)
    for mask, (_, x, y, w, h) in zip(masks, segments):
        mask[y : y + h, x : x + w] = True
    gt.gt_masks = BitMasks(masks)
    return gt


def inputs(*ground_truths):
    torch.manual_seed(0)
    return [
        {"image": torch.randint(0, 256, (3, *gt.image_size), dtype=torch.uint8), "instances": gt}
        for gt in ground_truths
    ]


@pytest.mark.parametrize(
    "segments", [(), THINGS, STUFF, THINGS + STUFF, (STUFF[0], STUFF[0]), ((1, 20, 20, 1, 1),)], ids=len
)
def test_training_reaches_every_parameter(tiny_cfg, segments):
    """Also without any object, so that distributed training does not hang."""
    model = build_model(tiny_cfg).train()
    losses = model(inputs(ground_truth(*segments), ground_truth(*THINGS, size=(48, 64))))
    assert set(losses) == LOSSES
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_more_things_than_queries(tiny_cfg):
    things = [(i % 3, 5 * i, 10, 8, 8) for i in range(9)]
    losses = build_model(tiny_cfg).train()(inputs(ground_truth(*things)))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_an_image_without_things_trains_no_stuff_classes(tiny_cfg):
    """And only the background of the location decoder; as in the released code."""
    losses = build_model(tiny_cfg).train()(inputs(ground_truth(*STUFF)))
    zero = {name for name, loss in losses.items() if loss == 0}
    nonzero = {"loss_cls", "d0.loss_cls", "loss_mask_stuff", "d0.loss_mask_stuff_f", "d1.loss_mask_stuff_f"}
    assert zero == LOSSES - nonzero


def test_an_image_without_stuff_still_trains_stuff_classes(tiny_cfg):
    losses = build_model(tiny_cfg).train()(inputs(ground_truth(*THINGS)))
    assert losses["loss_mask_stuff"] == 0 and losses["d1.loss_cls_stuff_f"] > 0


def test_losses_of_equal_images_do_not_depend_on_the_batch(tiny_cfg):
    """Counts and sums are over the batch, so two equal images give the losses of one."""
    model = build_model(tiny_cfg).double().eval()
    model.training = True  # without dropout and batch statistics
    gt = ground_truth(*THINGS, *STUFF)
    one, two = model(inputs(gt)), model([inputs(gt)[0]] * 2)
    for name in LOSSES:
        torch.testing.assert_close(one[name], two[name])


@pytest.mark.parametrize("segments, message", [(((5, 0, 0, 9, 9),), "NUM_THING_CLASSES"), (None, '"instances"')])
def test_bad_ground_truth_is_named(tiny_cfg, segments, message):
    model = build_model(tiny_cfg).train()
    batch = inputs(ground_truth(*(segments or ())))
    if segments is None:
        del batch[0]["instances"]
    with pytest.raises(ValueError, match=message):
        model(batch)


@torch.no_grad()
def test_results(tiny_cfg):
    model = build_model(tiny_cfg).eval()
    # Large masks with high scores.
    for decoder in (model.thing_mask_decoder, model.stuff_mask_decoder):
        decoder.tail.linear.bias.fill_(1.0)
    for branch in (*model.location_decoder.cls_branches, *model.cls_stuff_branches):
        branch.bias.fill_(3.0)
    batch = [x | {"height": 90, "width": 120} for x in inputs(ground_truth())]
    result = model(batch)[0]
    instances, (ids, infos) = result["instances"], result["panoptic_seg"]
    assert instances.pred_masks.shape == (4, 90, 120) and instances.pred_masks.dtype == torch.bool
    assert (instances.scores.diff() <= 0).all() and instances.image_size == (90, 120)
    assert instances.pred_boxes.tensor[:, 2].max() <= 120 and instances.pred_boxes.tensor[:, 3].max() <= 90
    assert result["sem_seg"].shape == (5, 90, 120)
    assert ids.shape == (90, 120) and set(ids.unique().tolist()) - {0} == {x["id"] for x in infos}
    assert infos and all(x["area"] == (ids == x["id"]).sum() and x["isthing"] == (x["category_id"] < 3) for x in infos)


@torch.no_grad()
def test_semantic_scores_are_class_score_times_mask_value(tiny_cfg):
    """The larger of two masks of class 1; the other thing classes have none."""
    model = build_model(tiny_cfg)
    masks = torch.tensor([[[0.2, 0.8]], [[0.6, 0.4]], [[1.0, 0.5]], [[0.0, 0.3]]])
    scores, labels = torch.tensor([0.5, 0.25, 0.9, 1.0]), torch.tensor([1, 1, 3, 4])
    expected = torch.tensor([[[0, 0]], [[0.15, 0.4]], [[0, 0]], [[0.9, 0.45]], [[0, 0.3]]])
    torch.testing.assert_close(model._sem_seg(masks, scores, labels, (1, 2)), expected)


@torch.no_grad()
def test_each_task_alone_gives_the_same(tiny_cfg):
    model = build_model(tiny_cfg).eval()
    model.stuff_mask_decoder.tail.linear.bias.fill_(1.0)
    batch = inputs(ground_truth())
    together = model(batch)[0]
    for task in ("panoptic_seg", "instances", "sem_seg"):
        model.tasks = (task,)
        alone = model(batch)[0]
        assert set(alone) == {task}
        if task == "instances":
            torch.testing.assert_close(alone[task].scores, together[task].scores)
            assert (alone[task].pred_masks == together[task].pred_masks).all()
        elif task == "sem_seg":
            torch.testing.assert_close(alone[task], together[task])
        else:
            assert (alone[task][0] == together[task][0]).all() and alone[task][1] == together[task][1]


@torch.no_grad()
def test_padding_of_the_batch_is_cut_away(tiny_cfg):
    """A smaller image beside a larger one: its features see the padding at their border only, its masks end there."""
    model = build_model(tiny_cfg).eval()
    small, large = inputs(ground_truth(size=(48, 64)), ground_truth(size=(64, 96)))
    images = [small, large]
    result = model(images)[0]
    assert result["sem_seg"].shape[1:] == (48, 64) and result["panoptic_seg"][0].shape == (48, 64)
    equal = model([small, small])
    torch.testing.assert_close(equal[0]["sem_seg"], model([small])[0]["sem_seg"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_separated_datasets_keep_their_numbers(tiny_cfg, shapes):
    """Stuff is numbered on its own there, and 0 is the semantic label of things."""
    tiny_cfg.DATASETS.TEST = ("shapes_val_panoptic_separated",)
    tiny_cfg.MODEL.PANOPTIC_SEGFORMER.NUM_THING_CLASSES = 6
    tiny_cfg.MODEL.PANOPTIC_SEGFORMER.NUM_STUFF_CLASSES = 3
    model = build_model(tiny_cfg).eval()
    assert model.category_ids.tolist() == [0, 1, 2, 3, 4, 5, 1, 2, 3]
    model.stuff_mask_decoder.tail.linear.bias.fill_(1.0)
    for branch in model.cls_stuff_branches:
        branch.bias.fill_(3.0)
    result = model(inputs(ground_truth()))[0]
    assert result["sem_seg"].shape[0] == 4
    infos = result["panoptic_seg"][1]
    assert infos and all(x["isthing"] or x["category_id"] in (1, 2, 3) for x in infos)


def test_a_model_for_instances_alone(tiny_cfg, recwarn):
    tiny_cfg.MODEL.PANOPTIC_SEGFORMER.NUM_STUFF_CLASSES = 0
    model = build_model(tiny_cfg).train()
    losses = model(inputs(ground_truth(*THINGS)))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    with torch.no_grad():
        result = model.eval()(inputs(ground_truth()))[0]
    assert len(result["instances"]) == 4 and result["sem_seg"].shape[0] == 3
    assert all(x["isthing"] for x in result["panoptic_seg"][1])
    assert not [w for w in recwarn if "pentamask" in str(w.filename)]


def test_bfloat16_is_near_float32(tiny_cfg):
    """Under autocast losses stay finite and like those of full precision; boxes, masks and losses are float32."""
    model = build_model(tiny_cfg).eval()
    model.training = True
    batch = inputs(ground_truth(*THINGS, *STUFF))
    full = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch)
    assert {loss.dtype for loss in half.values()} == {torch.float32}
    torch.testing.assert_close(sum(half.values()), sum(full.values()), rtol=0.05, atol=0.0)
    model.training = False
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        result = model(batch)[0]
    assert result["sem_seg"].dtype == result["instances"].scores.dtype == torch.float32


def test_unknown_feature_is_named(tiny_cfg):
    tiny_cfg.MODEL.PANOPTIC_SEGFORMER.IN_FEATURES = ["res3", "res6"]
    with pytest.raises(ValueError, match="IN_FEATURES names res6"):
        build_model(tiny_cfg)


def test_unknown_merge_rule_is_named_when_the_model_is_built(tiny_cfg):
    tiny_cfg.MODEL.PANOPTIC_SEGFORMER.MERGE.RULE = "wrong"
    with pytest.raises(ValueError, match="MERGE.RULE is 'wrong'"):
        build_model(tiny_cfg)


@pytest.mark.parametrize("checkpointer", [DetectionCheckpointer, PentamaskCheckpointer])
def test_own_checkpoint_comes_back(tiny_cfg, tmp_path, checkpointer):
    model, other = build_model(tiny_cfg), build_model(tiny_cfg)
    checkpointer(model, str(tmp_path)).save("model")
    checkpointer(other).load(str(tmp_path / "model.pth"))
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values()):
        assert torch.equal(a, b), name
