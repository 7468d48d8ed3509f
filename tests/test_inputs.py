"""Calls that no model can answer end in one ValueError that says what is wrong."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from pentamask.engine.load_config import load_config
from pentamask.inputs import check_inputs, check_picture, register_input_check

IMAGE = torch.randint(1, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "got an empty list"),
        (None, "takes a list of dicts .* got NoneType"),
        (IMAGE, "got Tensor"),
        ([IMAGE], "got list"),
        ([{}], 'Input 0 of Net has no "image"'),
        (
            [{"image": IMAGE}, {"image": IMAGE[0], "file_name": "a.jpg"}],
            r"Input 1 of Net \(a.jpg\): .*\(64, 64\)",
        ),
        ([{"image": IMAGE[:1]}], r"shape \(1, 64, 64\), expected \(3, H, W\)\."),
        ([{"image": IMAGE.permute(1, 2, 0)}], r"shape \(64, 64, 3\), expected \(3, H, W\): permute it"),
        ([{"image": IMAGE[:, :0]}], r"shape \(3, 0, 64\)"),
        ([{"image": IMAGE.numpy()}], "is ndarray, expected a uint8 tensor"),
        ([{"image": IMAGE.bool()}], "is torch.bool"),
        ([{"image": IMAGE / 255}], "up to 1, expected up to 255: multiply by 255"),
        ([{"image": IMAGE.float() - 100}], "values from -99 to 155, expected 0 to 255"),
        ([{"image": IMAGE.int() * 256}], "expected 0 to 255"),
        ([{"image": IMAGE * float("nan")}], "values from nan to nan"),
        ([{"image": IMAGE, "height": 0}], '"height" 0: it must be 1 or more'),
    ],
)
def test_wrong_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        check_inputs(inputs, "Net", channels=3, training=False)


@pytest.mark.parametrize("image", [IMAGE, IMAGE.float(), IMAGE.long(), IMAGE.half(), torch.zeros(3, 4, 5)])
def test_numbers_of_any_type_in_range_are_taken(image):
    check_inputs([{"image": image}], "Net", channels=3, training=False)


def _truth(box: list[float], label: int) -> Instances:
    return Instances((64, 64), gt_boxes=Boxes(torch.tensor([box])), gt_classes=torch.tensor([label]))


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({}, 'every input needs "instances"'),
        ({"instances": [1]}, '"instances" is list'),
        ({"instances": _truth([1.0, 1.0, 9.0, 9.0], -1)}, "gt_classes has -1; classes count from 0"),
        ({"instances": _truth([9.0, 1.0, 1.0, 9.0], 0)}, r"gt_boxes has \[9.0, 1.0, 1.0, 9.0\], expected x1, y1, x2"),
        ({"instances": _truth([float("nan"), 1.0, 1.0, 9.0], 0)}, r"gt_boxes has \[nan, 1.0"),
    ],
)
def test_wrong_ground_truth(truth, message):
    with pytest.raises(ValueError, match=message):
        check_inputs([{"image": IMAGE, **truth}], "Net", channels=3, training=True)


@pytest.mark.parametrize("name", ["BlendMask", "CenterMask_Lite", "MaskRCNN", "PanopticSegFormer", "YOLACT"])
def test_every_model_checks(shapes, name):
    model = build_model(load_config(f"configs/shapes/{name}_R_50_thin.yaml", ["MODEL.DEVICE", "cpu"])).eval()
    for training, inputs, message in (
        (False, [], "got an empty list"),
        (False, [{"image": IMAGE / 255}], "multiply by 255"),
        (True, [{"image": IMAGE}], 'every input needs "instances"'),
    ):
        with pytest.raises(ValueError, match=message):
            model.train(training)(inputs)


def test_models_of_others_are_checked_once():
    model = nn.Identity()
    register_input_check(model)
    register_input_check(model)
    assert len(model._forward_pre_hooks) == 1
    with pytest.raises(ValueError, match="Identity got an empty list"):
        model([])


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 5), np.uint8), r"got uint8 of shape \(4, 5\)"),
        (np.zeros((4, 5, 1), np.uint8), r"shape \(4, 5, 1\)"),
        (np.zeros((4, 5, 3), np.float32), "got float32"),
        (torch.zeros(4, 5, 3), "got Tensor"),
        (None, "as cv2.imread gives it, got NoneType"),
        (np.zeros((0, 5, 3), np.uint8), "is empty"),
    ],
)
def test_wrong_pictures(picture, message):
    with pytest.raises(ValueError, match=message):
        check_picture(picture)
