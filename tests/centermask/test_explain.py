"""What CenterMask's explanation shows is what happens to its RoIs."""

import torch
from detectron2.modeling import build_model

IMAGE = torch.arange(3 * 64 * 80).remainder(251).view(3, 64, 80).to(torch.uint8)


def build(cfg):
    torch.manual_seed(0)
    cfg.MODEL.FCOS.INFERENCE_TH_TEST, cfg.MODEL.FCOS.POST_NMS_TOPK_TEST = 0.0, 6
    cfg.MODEL.FCOS.NORM = "GN"
    return build_model(cfg).eval()


def test_attention_masks_and_levels(tiny_cfg):
    model = build(tiny_cfg)
    torch.nn.init.zeros_(model.roi_heads.mask_head.spatialAtt.conv.weight)  # a gate of 0.5 everywhere
    torch.nn.init.constant_(model.proposal_generator.fcos_head.bbox_pred.bias, 2.0)  # boxes of some size
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight)
    with torch.no_grad():
        results = model.inference([{"image": IMAGE}], do_postprocess=False)[0]
    parts = model.explain([{"image": IMAGE}] * 2, max_instances=2)[1]
    order = results.scores.argsort(descending=True, stable=True)
    torch.testing.assert_close(parts["levels"].boxes, results.pred_boxes.tensor[order])
    areas = results.pred_boxes.area()[order]
    # Equation 2 with P3 to P5: P5 above a half of the image, P4 above a quarter.
    expected = [min(max(2 - int(share < 0.5) - int(share < 0.25), 0), 2) for share in (areas / (64 * 80)).tolist()]
    assert parts["levels"].levels.tolist() == expected and parts["levels"].level_names == ["p3", "p4", "p5"]
    torch.testing.assert_close(parts["attention"].values[0], torch.full((2, 14, 14), 0.5))
    without, masks = parts["masks"].values
    torch.testing.assert_close(masks, results.pred_masks[order[:2], 0], rtol=1e-4, atol=1e-5)
    assert (without - masks).abs().max() > 1e-3
    iou = float(results.mask_scores[order[0]] / results.scores[order[0]])
    assert parts["masks"].notes[0] == f"predicted mask IoU {iou:.2f}"


def test_other_heads_and_boxes_only(tiny_cfg):
    tiny_cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    tiny_cfg.MODEL.MASKIOU_ON = False
    (parts,) = build(tiny_cfg).explain([{"image": IMAGE}])
    assert list(parts) == ["levels", "masks"] and parts["masks"].names == ["mask"] and not parts["masks"].notes
    tiny_cfg.MODEL.MASK_ON = False
    assert build(tiny_cfg).explain([{"image": IMAGE}]) == [{}]


def test_the_panoptic_model_too(tiny_cfg):
    tiny_cfg.MODEL.META_ARCHITECTURE = "PanopticCenterMask"
    (parts,) = build(tiny_cfg).explain([{"image": IMAGE}], min_score=2.0)
    assert list(parts) == ["levels", "attention", "masks"] and len(parts["masks"].values[0]) == 0
