import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from pentamask.fcos.decode import add_top_features, decode_level, select_detections
from pentamask.fcos.locations import level_locations


def decode(probs, quality, *, thresh=0.3, with_ctr=False, topk=100):
    """A 1 x 2 map of stride 8, distances 1 stride; probs (K, 1, 2), quality (2,)."""
    return decode_level(
        level_locations(1, 2, 8, torch.device("cpu")),
        torch.tensor(probs).logit(),
        torch.ones(4, 1, 2),
        torch.tensor(quality).view(1, 1, 2).logit(),
        stride=8,
        level=3,
        image_size=(8, 16),
        score_thresh=thresh,
        thresh_with_ctr=with_ctr,
        topk=topk,
    )


def test_every_class_above_the_threshold_is_a_candidate_with_an_unclipped_box():
    result = decode([[[0.5, 0.2]], [[0.4, 0.31]]], [0.25, 1 - 1e-6])
    assert result.pred_classes.tolist() == [0, 1, 1]
    assert torch.allclose(result.scores, torch.tensor([0.5 * 0.25, 0.4 * 0.25, 0.31]).sqrt(), atol=1e-4)
    assert result.pred_boxes.tensor.tolist() == [[-4, -4, 12, 12], [-4, -4, 12, 12], [4, -4, 20, 12]]
    assert result.locations.tolist() == [[4, 4], [4, 4], [12, 4]]
    assert result.fpn_levels.tolist() == [3, 3, 3]


def test_threshold_on_the_product():
    result = decode([[[0.5, 0.2]], [[0.4, 0.31]]], [0.25, 1 - 1e-6], with_ctr=True)
    assert result.pred_classes.tolist() == [1]


def test_topk_by_product():
    result = decode([[[0.9, 0.5]]], [0.1, 0.9], topk=1)
    assert result.locations.tolist() == [[12, 4]]


def test_nothing_found():
    result = decode([[[0.1, 0.1]]], [0.5, 0.5])
    assert len(result) == 0 and result.pred_boxes.tensor.shape == (0, 4)
    assert len(select_detections(result, nms_thresh=0.6, topk=10)) == 0


def detections(scores, classes, boxes=None):
    boxes = torch.tensor(boxes) if boxes else torch.arange(len(scores)).view(-1, 1) * 100.0 + torch.tensor([0, 0, 9, 9])
    return Instances(
        (1000, 1000),
        pred_boxes=Boxes(boxes),
        scores=torch.tensor(scores, dtype=torch.float64),
        pred_classes=torch.tensor(classes),
    )


def test_nms_is_per_class_and_sorts():
    boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 8.0]]
    kept = select_detections(detections([0.5, 0.9, 0.7], [0, 0, 1], boxes), nms_thresh=0.6, topk=100)
    assert kept.scores.tolist() == [0.9, 0.7]
    kept = select_detections(detections([0.5, 0.9, 0.7], [0, 0, 1], boxes), nms_thresh=0, topk=100)
    assert kept.scores.tolist() == [0.5, 0.9, 0.7]


def test_ties_with_the_last_of_the_best_stay():
    kept = select_detections(detections([0.5, 0.9, 0.5, 0.4], [0] * 4), nms_thresh=0.6, topk=2)
    assert kept.scores.tolist() == [0.9, 0.5, 0.5]
    assert len(select_detections(detections([0.5, 0.9], [0, 0]), nms_thresh=0.6, topk=0)) == 2


@pytest.mark.parametrize("module", ["conv", "hooked", "other"])
def test_top_features_are_those_of_the_whole_maps(module: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1)
    top_module, seen = {"other": nn.Sequential(conv, nn.ReLU())}.get(module, conv), []
    if module == "hooked":
        conv.register_forward_hook(lambda *args: seen.append(args[2].shape))
    features, strides = [torch.randn(2, 4, 3, 5), torch.randn(2, 4, 2, 1)], [8, 16]
    places = [[(0, 0, 0), (0, 2, 4), (1, 1, 0)], [(0, 1, 2)]]  # level, row, column
    found = []
    for image in places:
        points = [level_locations(3, 5, 8, "cpu").view(3, 5, 2), level_locations(2, 1, 16, "cpu").view(2, 1, 2)]
        locations = torch.stack([points[level][row, column] for level, row, column in image])
        found.append(Instances((24, 40), locations=locations, fpn_levels=torch.tensor([place[0] for place in image])))
    found.append(Instances((24, 40), locations=torch.zeros(0, 2), fpn_levels=torch.zeros(0, dtype=torch.int64)))
    add_top_features(found[:2], features, strides, top_module)
    assert len(seen) == (2 if module == "hooked" else 0)
    maps = [top_module(x) for x in features]
    for i, (image, result) in enumerate(zip(places, found)):
        expected = torch.stack([maps[level][i, :, row, column] for level, row, column in image])
        torch.testing.assert_close(result.top_feat, expected)
    nothing = found[2:]
    add_top_features(nothing, [x[:1] for x in features], strides, top_module)
    assert nothing[0].top_feat.shape == (0, 6)
