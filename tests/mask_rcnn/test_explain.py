"""What Mask R-CNN's explanation shows is what happens to its RoIs."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from pentamask import model_zoo
from pentamask.mask_rcnn.explain import sampling_points
from pentamask.mask_rcnn.poolers import replace_level_poolers

IMAGE = torch.arange(3 * 64 * 80).remainder(251).view(3, 64, 80).to(torch.uint8)


def test_proposals_samples_and_masks():
    torch.manual_seed(0)
    cfg = model_zoo.get_config("shapes/MaskRCNN_R_50_thin.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = "cpu", 0.0
    model = build_model(cfg).eval()
    with torch.no_grad():
        results = model.inference([{"image": IMAGE}], do_postprocess=False)[0]
    parts = model.explain([{"image": IMAGE[:, :32]}, {"image": IMAGE}], max_instances=2)[1]
    order = results.scores.argsort(descending=True, stable=True)[:2]
    assert 0 < len(parts["proposals"].boxes) <= 60 and parts["proposals"].level_names == ["p2"]
    torch.testing.assert_close(parts["masks"].values[0], results.pred_masks[order, 0], rtol=1e-4, atol=1e-5)
    soft, hard = parts["pasted"].values
    assert soft.shape == hard.shape == (2, 64, 80) and torch.equal(hard, (soft > 0.5).float())
    points, boxes = parts["sampling"], results.pred_boxes.tensor[order]
    assert points.grid == (14, 14) and len(points.points) == 2
    for box, samples in zip(boxes, points.points):
        torch.testing.assert_close(samples.mean(dim=0), (box[:2] + box[2:]) / 2, rtol=1e-4, atol=1e-3)
        assert (samples > box[:2]).all() and (samples < box[2:]).all()


@pytest.mark.parametrize(("kind", "shift"), [("ROIAlignV2", 0.0), ("ROIAlign", 2.0)])
def test_samples_lie_where_roi_align_reads(kind, shift):
    """The mean of the x coordinates at the samples of a cell is what pooling a ramp of them gives."""
    pooler = ROIPooler((2, 3), (0.25,), 2, kind)
    boxes = Boxes(torch.tensor([[8.0, 12.0, 44.0, 52.0]]))
    (points,) = sampling_points(pooler, boxes)
    assert len(points) == 2 * 3 * 4
    centres = (torch.arange(16) + 0.5) * 4
    ramps = torch.stack([centres.expand(16, 16), centres[:, None].expand(16, 16)])[None]
    expected = pooler([ramps], [boxes])[0]
    cells = points.view(2, 2, 3, 2, 2).mean(dim=(1, 3))
    torch.testing.assert_close(cells.permute(2, 0, 1), expected)
    assert float(points[0, 0]) == 8 + shift + 3


def test_a_ratio_of_zero_follows_the_size_and_other_poolers():
    pooler = ROIPooler((2, 2), (0.25,), 0, "ROIAlignV2")
    boxes = Boxes(torch.tensor([[0.0, 0.0, 8.0, 33.0]]))
    assert len(sampling_points(pooler, boxes)[0]) == 2 * 1 * 2 * 5  # 1 and 4.1 pixels of the features a cell
    replace_level_poolers(pooler, "ROIAlignMax", 0)
    assert len(sampling_points(pooler, boxes)[0]) == 16
    replace_level_poolers(pooler, "ROIWarp", 0)
    assert sampling_points(pooler, boxes) is None


def test_c4_models():
    torch.manual_seed(0)
    cfg = model_zoo.get_config("MaskRCNN/R_50_C4_1x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = (
        8,
        8,
        8,
    )
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 4, 0.0
    (parts,) = build_model(cfg).eval().explain([{"image": IMAGE}], max_instances=1)
    assert list(parts) == ["proposals", "sampling", "masks", "pasted"]
    assert parts["proposals"].level_names == ["res4"] and parts["masks"].values[0].shape == (1, 14, 14)
