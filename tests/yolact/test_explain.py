"""What YOLACT's explanation shows is what its masks are assembled from."""

import torch
from detectron2.modeling import build_model


def test_sum_and_crop(tiny_cfg):
    torch.manual_seed(0)
    tiny_cfg.MODEL.YOLACT.SCORE_THRESH_TEST = 0.0
    model = build_model(tiny_cfg).eval()
    image = torch.randint(0, 256, (3, 40, 80), dtype=torch.uint8)
    detections, low_masks = [], model.postprocessor.low_masks
    model.postprocessor.low_masks = lambda d, p: detections.append((d, low_masks(d, p))) or detections[-1][1]
    with torch.no_grad():
        model([{"image": image}])
    (parts,) = model.explain([{"image": image}], max_instances=4)
    boxes, masks = detections[0][0].boxes[:4], detections[0][1][:4]
    prototypes, total, crop = parts["prototypes"], parts["sum"], parts["crop"]
    assert prototypes.values.shape == (8, 16, 16) and prototypes.extent == (40, 80)
    assert total.weights.shape == (4, 8) and (total.weights < 0).any()
    torch.testing.assert_close(total.terms(1)[2].sum(dim=0).sigmoid(), total.result[1])
    assembled, cropped, removed = crop.values
    torch.testing.assert_close(cropped, masks, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(assembled, cropped + removed)
    assert crop.instances.image_size == (40, 80)
    expected = (boxes * torch.tensor([80, 40, 80, 40])).clamp(min=0)
    assert (crop.instances.pred_boxes.tensor[:, :2] - expected[:, :2]).abs().max() < 1  # whole pixels
