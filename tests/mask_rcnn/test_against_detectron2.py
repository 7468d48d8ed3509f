"""The same weights in Detectron2's own class: the recipes, outputs and losses are equal."""

from importlib.resources import files

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from pentamask import model_zoo

RECIPES = [f"R_50_{kind}_{schedule}" for kind in ("C4", "DC5", "FPN") for schedule in ("1x", "3x")]
OTHERS = ["R_101_C4_3x", "R_101_DC5_3x", "R_101_FPN_3x", "X_101_32x8d_FPN_3x"]


def ours(name: str) -> CfgNode:
    cfg = model_zoo.get_config(f"MaskRCNN/{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def theirs(name: str) -> CfgNode:
    cfg = get_cfg()
    folder = files("detectron2").joinpath("model_zoo/configs/COCO-InstanceSegmentation")
    cfg.merge_from_file(str(folder.joinpath(f"mask_rcnn_{name}.yaml")))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def flatten(cfg: CfgNode, prefix: str = "") -> dict:
    flat = {}
    for key, value in cfg.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value})
    return flat


@pytest.mark.parametrize("name", RECIPES + OTHERS)
def test_recipe_is_detectron2s(name):
    a, b = flatten(ours(name)), flatten(theirs(name))
    differing = {key for key in b if list_or(a[key]) != list_or(b[key])}
    assert differing <= {"MODEL.META_ARCHITECTURE", "MODEL.ROI_MASK_HEAD.NAME", "MODEL.WEIGHTS"}
    assert a["MODEL.WEIGHTS"].removesuffix(".pkl") == b["MODEL.WEIGHTS"].removesuffix(".pkl")


def list_or(value):
    return list(value) if isinstance(value, tuple) else value


def training_input() -> list[dict]:
    torch.manual_seed(0)
    gt = Instances((96, 128))
    gt.gt_boxes = Boxes(torch.tensor([[8.0, 8, 60, 70], [40, 20, 120, 90]]))
    gt.gt_classes = torch.tensor([3, 40])
    gt.gt_masks = PolygonMasks(
        [[torch.tensor([x0, y0, x1, y0, x1, y1]).double().numpy()] for x0, y0, x1, y1 in gt.gt_boxes.tensor.tolist()]
    )
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    return [{"image": image, "instances": gt, "height": 120, "width": 160}]


@pytest.mark.parametrize("name", RECIPES[::2])
def test_outputs_and_losses_are_detectron2s(name, tmp_path):
    configs = [ours(name), theirs(name)]
    for cfg in configs:
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32  # quicker
        cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    torch.manual_seed(1)
    reference = build_model(configs[1])
    # Without trained norms activations grow a thousandfold; and untrained class scores are nearly equal.
    for key, parameter in reference.named_parameters():
        if key.endswith("stem.conv1.weight"):
            parameter.data *= 1e-3
    torch.nn.init.normal_(reference.roi_heads.box_predictor.cls_score.weight, std=0.3)
    torch.save({"model": reference.state_dict()}, tmp_path / "model.pth")
    model = build_model(configs[0])
    DetectionCheckpointer(model).load(str(tmp_path / "model.pth"))

    batch = training_input()
    losses = []
    for m in (model, reference):
        torch.manual_seed(2)  # proposals are sampled
        with EventStorage():
            losses.append(m.train()(batch))
    assert losses[0].keys() == losses[1].keys() and "loss_mask" in losses[0]
    assert all(torch.equal(losses[0][k], losses[1][k]) for k in losses[0])

    with torch.no_grad():
        a, b = (m.eval()(batch)[0]["instances"] for m in (model, reference))
    assert len(a) == len(b) > 0
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    assert torch.equal(a.scores, b.scores)
    assert torch.equal(a.pred_classes, b.pred_classes)
    assert torch.equal(a.pred_masks, b.pred_masks)
