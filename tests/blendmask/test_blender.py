"""The blender against its definition, in the configuration of the compiled op and in others."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Boxes, Instances
from torchvision.ops import roi_align

from pentamask.blendmask import Blender, add_blendmask_config
from pentamask.fcos import Positives

K, A, R = 3, 4, 8


def sample():
    torch.manual_seed(0)
    bases = torch.randn(2, K, 12, 16, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 4.0, 4, 40, 30], [1, -9.0, 2, 20, 60], [1, 30.0, 30, 90, 47]])
    attention = torch.randn(3, K * A * A, dtype=torch.float64, requires_grad=True)
    return bases, rois, attention


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 0])
@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIAlign"])
def test_mask_logits(interpolation, sampling_ratio, pooler_type):
    bases, rois, attention = sample()
    blender = Blender(
        num_bases=K,
        attention_size=A,
        output_size=R,
        sampling_ratio=sampling_ratio,
        pooler_type=pooler_type,
        interpolation=interpolation,
    )
    crops = roi_align(bases, rois.double(), R, 0.25, sampling_ratio, pooler_type == "ROIAlignV2")
    kwargs = {"align_corners": False} if interpolation == "bilinear" else {}
    weights = F.interpolate(attention.view(3, K, A, A), (R, R), mode=interpolation, **kwargs).softmax(dim=1)
    expected = (crops * weights).sum(dim=1)
    actual = blender.mask_logits(bases, rois, attention)
    torch.testing.assert_close(actual, expected)
    for a, e in zip(*(torch.autograd.grad((x * x).sum(), (bases, attention)) for x in (actual, expected))):
        torch.testing.assert_close(a, e)


def positives(gt_inds, attention):
    gt_inds = torch.tensor(gt_inds, dtype=torch.long)
    return Positives(
        pos_inds=gt_inds,
        gt_inds=gt_inds,
        levels=gt_inds,
        reg_targets=torch.zeros(len(gt_inds), 4),
        gt_ctrs=torch.tensor([0.5, 1.0, 0.25])[: len(gt_inds)],
        loss_denorm=torch.tensor(1.75),
        top_feats=attention[: len(gt_inds)],
    )


def ground_truth(*boxes):
    masks = torch.zeros(len(boxes), 48, 64, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes):
        mask[int(y0) : int(y1), int(x0) : int((x0 + x1) / 2)] = True
    gt = Instances((48, 64), gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)), gt_masks=BitMasks(masks))
    gt.gt_classes = torch.zeros(len(boxes), dtype=torch.long)
    return gt


def test_loss_weights_each_location_by_its_ctrness():
    """Left half of each box is the object; indices run over the batch, past images without objects."""
    bases, _, attention = sample()
    boxes = [[4.0, 4.0, 40.0, 30.0], [8.0, 8.0, 32.0, 40.0]]
    empty = ground_truth()
    empty.remove("gt_masks")  # Detectron2's mapper gives images without objects none
    gt = [ground_truth(boxes[0]), empty, ground_truth(boxes[1])]
    bases = torch.cat((bases, bases[:1]))
    blender = Blender(num_bases=K, attention_size=A, output_size=R, loss_weight=2.0)
    found = positives([1, 0, 1], attention)
    rois = torch.tensor([[2, *boxes[1]], [0, *boxes[0]], [2, *boxes[1]]])
    logits = blender.mask_logits(bases, rois, attention)
    target = torch.zeros(3, R, R, dtype=torch.float64)
    target[:, :, : R // 2] = 1
    per_location = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(1, 2))
    expected = 2 * (per_location * found.gt_ctrs).sum() / 1.75
    torch.testing.assert_close(blender.losses(bases, found, gt)["loss_mask"], expected)


def test_no_positives_keep_the_graph():
    bases, _, attention = sample()
    loss = Blender(num_bases=K, attention_size=A, output_size=R).losses(
        bases, positives([], attention), [ground_truth()] * 2
    )["loss_mask"]
    grads = torch.autograd.grad(loss, (bases, attention))
    assert loss == 0 and all((g == 0).all() for g in grads)


def test_inference_splits_by_image():
    bases, rois, attention = sample()
    blender = Blender(num_bases=K, attention_size=A, output_size=R)
    detections = [
        Instances((48, 64), pred_boxes=Boxes(rois[i, 1:]), top_feat=attention[i]) for i in (slice(0, 1), slice(1, 3))
    ]
    results = blender.inference(bases, detections)
    expected = blender.mask_logits(bases, rois, attention).sigmoid()[:, None]
    assert torch.equal(torch.cat([r.pred_masks for r in results]), expected)
    assert not results[0].has("top_feat")


def test_bad_config_names_the_key():
    cfg = get_cfg()
    add_blendmask_config(cfg)
    cfg.MODEL.BLENDMASK.TOP_INTERP = "bicubic"
    shapes = {"p3": ShapeSpec(stride=8)}
    with pytest.raises(ValueError, match=r"MODEL\.BLENDMASK\.TOP_INTERP.*bicubic"):
        Blender(cfg, shapes)
    cfg.MODEL.BLENDMASK.POOLER_SCALES = (0.25, 0.125)
    with pytest.raises(ValueError, match=r"MODEL\.BLENDMASK\.POOLER_SCALES is .* give 0\.25"):
        Blender(cfg, shapes)
