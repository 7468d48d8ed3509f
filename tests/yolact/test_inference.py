import pytest
import torch

from pentamask.yolact.inference import Detections, Postprocessor, whole_pixels
from pentamask.yolact.mask_networks import MaskIoUNet


def detections(boxes, scores=None):
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    n = len(boxes)
    scores = torch.linspace(0.9, 0.1, n) if scores is None else torch.tensor(scores)
    return Detections(boxes, scores, torch.arange(n) % 2, torch.ones(n, 1))


def test_boxes_are_clamped_on_one_side_each_and_truncated():
    boxes = torch.tensor([[0.51, 0.9, 0.11, 0.19], [-0.5, 0.1, 1.5, 0.29], [1.2, 0.0, 1.5, 1.0], [-0.5, 0, -0.2, 1]])
    expected = [[1, 3, 5, 18], [0, 2, 10, 5], [12, 0, 10, 20], [0, 0, -2, 20]]
    assert whole_pixels(boxes, 20, 10).tolist() == expected


def test_mask_is_cropped_at_prototype_resolution_and_thresholded_after_upsampling():
    prototypes = torch.ones(1, 8, 8, dtype=torch.float64)
    result = Postprocessor(image_size=64).instances(detections([[0.25, 0.25, 0.5, 0.5]]), prototypes, 16, 32)
    mask = result.pred_masks[0]
    assert result.image_size == (16, 32) and mask.dtype == torch.bool
    assert result.pred_boxes.tensor.tolist() == [[8, 4, 16, 8]]
    # sigmoid(1) = 0.73 in the prototype pixels 1 to 4 of 8, falling linearly to 0 at the centres of 0 and 5, so that
    # 0.5 is reached 0.68 of the way from them.
    assert mask.any(dim=0).nonzero()[:, 0].tolist() == list(range(5, 19))
    assert mask.any(dim=1).nonzero()[:, 0].tolist() == list(range(2, 10))
    uncropped = Postprocessor(image_size=64, crop_masks=False)
    assert uncropped.instances(detections([[0.25, 0.25, 0.5, 0.5]]), prototypes, 16, 32).pred_masks.all()


def test_final_threshold_and_many_masks():
    boxes = [[0.0, 0.0, 1.0, 1.0]] * 30
    result = Postprocessor(image_size=64, final_score_thresh=0.5).instances(
        detections(boxes), torch.ones(1, 4, 4, dtype=torch.float64), 5, 7
    )
    assert len(result) == 15 and (result.scores > 0.5).all() and result.pred_masks.shape == (15, 5, 7)


def test_rescoring_multiplies_by_the_predicted_iou_of_the_class():
    torch.manual_seed(0)
    net = MaskIoUNet(2)
    prototypes = torch.rand(1, 64, 64)
    found = detections([[0.1, 0.1, 0.9, 0.9], [0.3, 0.3, 0.8, 0.6]])
    found = Detections(found.boxes.float(), *found[1:])
    for rescore_boxes in (False, True):
        postprocessor = Postprocessor(image_size=256, rescore_boxes=rescore_boxes)
        result = postprocessor.instances(found, prototypes, 64, 64, net)
        quality = net(postprocessor.low_masks(found, prototypes))
        expected = found.scores * torch.stack((quality[0, 0], quality[1, 1]))
        torch.testing.assert_close(result.mask_scores, expected)
        torch.testing.assert_close(result.scores, expected if rescore_boxes else found.scores)


@pytest.mark.parametrize(("nms_type", "count"), [("fast", 4), ("batched", 4), ("cross_class", 3)])
def test_detection_thresholds_priors_and_suppresses_as_configured(nms_type, count):
    # The prior of the last row scores too low in every class; the others have two classes each but for the first.
    logits = torch.tensor([[0.0, 9.0, 0.0], [0.0, 5.0, 5.0], [0.0, 5.0, 5.0], [9.0, 0.0, 0.0]])
    priors = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1], [0.8, 0.2, 0.1, 0.1]])
    postprocessor = Postprocessor(image_size=100, nms_type=nms_type, max_detections=4)
    found = postprocessor.detect(torch.zeros(4, 4), logits, torch.eye(4), priors)
    assert len(found.scores) == count and (found.scores.diff() <= 0).all()
    torch.testing.assert_close(found.boxes[0], torch.tensor([0.15, 0.15, 0.25, 0.25]))
    assert found.classes[0] == 0 and found.coefficients[0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("nms_type", ["fast", "batched", "cross_class"])
@pytest.mark.parametrize("limit", [3, 250])
def test_as_many_detections_as_wanted(nms_type, limit):
    """More than the NMS's own top-k, and less; 300 boxes of one class beside each other."""
    priors = torch.tensor([[x / 20 + 0.025, y / 20 + 0.025, 0.03, 0.03] for y in range(15) for x in range(20)])
    logits = torch.tensor([[0.0, 5.0]]).expand(300, 2)
    postprocessor = Postprocessor(image_size=400, nms_type=nms_type, max_detections=limit)
    assert len(postprocessor.detect(torch.zeros(300, 4), logits, torch.ones(300, 1), priors).scores) == limit


@pytest.mark.parametrize(("topk", "count"), [(3, 1), (4, 2)])
def test_nms_considers_the_wanted_number_of_boxes(tiny_cfg, topk, count):
    """The fourth box is the first that does not overlap the best."""
    tiny_cfg.MODEL.YOLACT.NMS_TOPK, tiny_cfg.TEST.DETECTIONS_PER_IMAGE = topk, 2
    boxes = torch.tensor([[0.0, 0, 0.5, 0.5]] * 3 + [[0.6, 0.6, 0.9, 0.9]])
    kept = Postprocessor(tiny_cfg).nms(boxes, torch.tensor([[0.9, 0.8, 0.7, 0.6]]))
    assert kept[0].tolist() == [0, 3][:count]


def test_unknown_nms_is_refused():
    with pytest.raises(ValueError, match="MODEL.YOLACT.NMS_TYPE is 'soft'"):
        Postprocessor(image_size=64, nms_type="soft")
