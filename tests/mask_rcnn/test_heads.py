"""The paper's choices: activations, heads and poolers."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torchvision.ops import roi_align

from pentamask import model_zoo
from pentamask.mask_rcnn import FCNMaskHead, MLPMaskHead
from pentamask.mask_rcnn.mask_head import softmax_mask_inference, softmax_mask_loss
from pentamask.mask_rcnn.poolers import ROIAlignMax, ROIWarp, replace_level_poolers

K, S = 3, 4


def foreground(num: int) -> Instances:
    """Objects that fill the left half of their proposal."""
    masks = torch.zeros(num, 16, 16, dtype=torch.bool)
    masks[:, :, :8] = True
    boxes = Boxes(torch.tensor([[0.0, 0, 16, 16]]).repeat(num, 1))
    instances = Instances((16, 16), proposal_boxes=boxes, gt_masks=BitMasks(masks))
    instances.gt_classes = torch.arange(num) % K
    return instances


def test_softmax_loss_is_cross_entropy_with_the_background_last():
    logits = torch.randn(3, K + 1, S, S)
    target = torch.full((3, S, S), K)
    target[:, :, : S // 2] = torch.arange(3)[:, None, None]
    loss = softmax_mask_loss(logits, [foreground(1), foreground(0), foreground(3)[1:]])
    torch.testing.assert_close(loss, F.cross_entropy(logits, target))


def test_softmax_loss_without_objects_keeps_the_graph():
    logits = torch.randn(0, K + 1, S, S, requires_grad=True)
    loss = softmax_mask_loss(logits, [foreground(0)])
    loss.backward()
    assert loss == 0


def test_softmax_inference_takes_the_predicted_class():
    logits = torch.randn(3, K + 1, S, S)
    instances = [Instances((8, 8), pred_classes=torch.tensor(c)) for c in ([2], [0, 1])]
    softmax_mask_inference(logits, instances)
    probs = logits.softmax(dim=1)
    assert torch.equal(instances[0].pred_masks, probs[:1, 2:3])
    assert torch.equal(instances[1].pred_masks[1], probs[2, 1:2])


def config(**mask_head):
    cfg = model_zoo.get_config("MaskRCNN/R_50_FPN_1x.yaml")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = cfg.MODEL.ROI_MASK_HEAD.FC_DIM = 16
    for key, value in mask_head.items():
        cfg.MODEL.ROI_MASK_HEAD[key] = value
    return cfg


@pytest.mark.parametrize("head", [FCNMaskHead, MLPMaskHead])
@pytest.mark.parametrize(
    "choice, outputs", [({}, K), ({"ACTIVATION": "softmax"}, K + 1), ({"CLS_AGNOSTIC_MASK": True}, 1)]
)
def test_heads_train_and_predict(head, choice, outputs):
    model = head(config(**choice), ShapeSpec(channels=8, height=7, width=7))
    x = torch.randn(3, 8, 7, 7)
    assert model.layers(x).shape == (3, outputs, 14, 14)
    with EventStorage():
        loss = model.train()(x, [foreground(3)])["loss_mask"]
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    found = Instances((16, 16), pred_classes=torch.tensor([0, 1, 2]))
    (found,) = model.eval()(x, [found])
    assert found.pred_masks.shape == (3, 1, 14, 14)
    assert ((found.pred_masks >= 0) & (found.pred_masks <= 1)).all()


@pytest.mark.parametrize("head", [FCNMaskHead, MLPMaskHead])
def test_softmax_loss_has_the_weight_of_the_head(head):
    model = head(config(ACTIVATION="softmax"), ShapeSpec(channels=8, height=7, width=7), loss_weight=3.0)
    x = torch.randn(3, 8, 7, 7)
    with EventStorage():
        loss = model.train()(x, [foreground(3)])["loss_mask"]
    torch.testing.assert_close(loss, 3 * softmax_mask_loss(model.layers(x), [foreground(3)]))


def test_bad_choices_name_the_keys():
    shape = ShapeSpec(channels=8, height=7, width=7)
    with pytest.raises(ValueError, match="ACTIVATION is 'tanh'"):
        FCNMaskHead(config(ACTIVATION="tanh"), shape)
    with pytest.raises(ValueError, match="CLS_AGNOSTIC_MASK"):
        FCNMaskHead(config(ACTIVATION="softmax", CLS_AGNOSTIC_MASK=True), shape)
    with pytest.raises(ValueError, match="FCNMaskHead"):
        build_model(config(ACTIVATION="softmax", NAME="MaskRCNNConvUpsampleHead"))
    cfg = config()
    cfg.MODEL.MASK_ON = False
    with pytest.raises(ValueError, match="MASK_ON"):
        build_model(cfg)


def test_roi_align_max_takes_the_largest_of_four_samples():
    x, rois = torch.randn(1, 2, 12, 12), torch.tensor([[0, 3.0, 4.0, 30.0, 41.0]])
    samples = roi_align(x, rois, (6, 4), 0.25, 1, True)
    assert torch.equal(ROIAlignMax((3, 2), 0.25)(x, rois), samples.view(1, 2, 3, 2, 2, 2).amax(dim=(3, 5)))


def test_roi_warp_rounds_to_cells():
    x = torch.arange(64.0).view(1, 1, 8, 8)
    warp = ROIWarp((2, 2), 0.25, 1)
    # 5.9 and 13.8 px are cells 1.475 and 3.45: rounded to 1 ... 3, so cells 1 to 3 in x and y.
    result = warp(x, torch.tensor([[0, 5.9, 5.9, 13.8, 13.8]]))
    assert torch.equal(result, warp(x, torch.tensor([[0, 4.0, 4.0, 12.0, 12.0]])))
    # Bins of 1.5 cells, sampled at their centres, 1.75 and 3.25 from the edge: 1.25 and 2.75 in cell indices.
    expected = torch.tensor([[1.25 * 9, 1.25 * 8 + 2.75], [2.75 * 8 + 1.25, 2.75 * 9]])
    torch.testing.assert_close(result[0, 0], expected)


def test_roi_warp_takes_the_wanted_samples():
    """Four samples of a bin, of which one falls on the only cell that is not 0; one sample falls between cells."""
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 2, 2] = 1
    rois = torch.tensor([[0, 8.0, 8.0, 12.0, 12.0]])  # cells 2 and 3: samples at 2 and 3, or at 2.5
    assert ROIWarp((1, 1), 0.25, 2)(x, rois).item() == pytest.approx(1 / 4)
    rois = torch.tensor([[0, 8.0, 8.0, 20.0, 20.0]])  # cells 2 to 5: at 2.5 and 4.5, or at 3.5
    assert ROIWarp((1, 1), 0.25, 2)(x, rois).item() == pytest.approx(1 / 16)
    assert ROIWarp((1, 1), 0.25, 1)(x, rois).item() == 0


@pytest.mark.parametrize("pooler_type, level_class", [("ROIAlignMax", ROIAlignMax), ("ROIWarp", ROIWarp)])
def test_every_level_gets_the_pooler(pooler_type, level_class):
    pooler = ROIPooler(7, (0.25, 0.125), 0, "ROIAlignV2")
    replace_level_poolers(pooler, pooler_type, 0)
    assert all(isinstance(level, level_class) for level in pooler.level_poolers)
    x = [torch.randn(1, 2, 16, 16), torch.randn(1, 2, 8, 8)]
    assert pooler(x, [Boxes(torch.tensor([[0.0, 0, 20, 20]]))]).shape == (1, 2, 7, 7)


@pytest.mark.parametrize("base", ["R_50_FPN_1x", "R_50_C4_1x"])
def test_pooler_of_the_config_reaches_the_heads(base):
    cfg = model_zoo.get_config(f"MaskRCNN/{base}.yaml")
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = "ROIWarp"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = cfg.MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = 3
    with torch.device("meta"):
        heads = build_model(cfg).roi_heads
    poolers = [m for m in heads.modules() if isinstance(m, ROIPooler)]
    levels = [level for pooler in poolers for level in pooler.level_poolers]
    assert levels and all(isinstance(level, ROIWarp) and level.resample.sampling_ratio == 3 for level in levels)
