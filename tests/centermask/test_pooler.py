import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torchvision.ops import roi_align

from pentamask.centermask import AdaptiveROIPooler
from pentamask.centermask.pooler import adaptive_levels

SCALES = (1 / 8, 1 / 16, 1 / 32)


def test_levels_by_share_of_the_image():
    """Over a half: P5; over a quarter: P4; the rest: P3. The limits themselves belong to the finer level."""
    shares = torch.tensor([2.0, 1, 0.51, 0.5, 0.26, 0.25, 0.01, 0])
    image_areas = torch.full_like(shares, 1024.0)
    assert adaptive_levels(shares * 1024, image_areas, 3, 5).tolist() == [5, 5, 5, 4, 4, 3, 3, 3]
    assert adaptive_levels(shares * 1024, image_areas, 2, 5).tolist() == [5, 5, 5, 4, 4, 3, 2, 2]


def test_the_unpadded_image_decides():
    pooler = AdaptiveROIPooler(14, SCALES, 0, "ROIAlignV2")
    boxes = [Boxes(torch.tensor([[0.0, 0, 40, 60]]))] * 2
    assert pooler.assign_levels(boxes, [(60, 60), (128, 128)]).tolist() == [2, 0]


def test_each_box_is_pooled_from_its_level_in_the_order_of_the_boxes():
    features = [torch.randn(2, 3, 64 // s, 64 // s) for s in (8, 16, 32)]
    boxes = [Boxes(torch.tensor([[0.0, 0, 60, 60], [4, 4, 20, 24]])), Boxes(torch.tensor([[-8.0, 0, 40, 30]]))]
    pooled = AdaptiveROIPooler(14, SCALES, 0, "ROIAlignV2")(features, boxes, [(64, 64), (64, 64)])
    for i, (image, box, level) in enumerate(((0, [0, 0, 60, 60], 2), (0, [4, 4, 20, 24], 0), (1, [-8, 0, 40, 30], 1))):
        rois = torch.tensor([[image, *box]], dtype=torch.float32)
        torch.testing.assert_close(pooled[i : i + 1], roi_align(features[level], rois, 14, SCALES[level], 0, True))


def test_area_is_detectron2s_assignment():
    features = [torch.randn(1, 3, 512 // s, 512 // s) for s in (8, 16, 32)]
    boxes = [Boxes(torch.tensor([[0.0, 0, 30, 30], [0, 0, 224, 224], [0, 0, 500, 500]]))]
    ours = AdaptiveROIPooler(7, SCALES, 0, "ROIAlignV2", "area")(features, boxes, [(512, 512)])
    torch.testing.assert_close(ours, ROIPooler(7, SCALES, 0, "ROIAlignV2")(features, boxes))


def test_no_boxes():
    features = [torch.randn(1, 3, 64 // s, 64 // s, requires_grad=True) for s in (8, 16, 32)]
    pooled = AdaptiveROIPooler(14, SCALES, 0, "ROIAlignV2")(features, [Boxes(torch.zeros(0, 4))], [(64, 64)])
    assert pooled.shape == (0, 3, 14, 14)
    pooled.sum().backward()
    assert all(x.grad is not None for x in features)


def test_an_unknown_criterion_names_the_key():
    with pytest.raises(ValueError, match="ASSIGN_CRITERION.*'size'"):
        AdaptiveROIPooler(14, SCALES, 0, "ROIAlignV2", "size")
