import random

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from pentamask.data.config import add_data_config
from pentamask.data.mapper import MaskDatasetMapper
from pentamask.yolact import add_yolact_config
from pentamask.yolact.ssd_augmentation import (
    MeanPadTransform,
    PhotometricTransform,
    RandomExpand,
    SSDRandomCrop,
    StretchTransform,
    build_ssd_augmentation,
    follow_ssd_augmentation,
)

IMAGE = np.zeros((100, 200, 3), np.float32)
NO_CROWD = np.zeros(1, bool)


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)
    np.random.seed(0)


def test_colours_are_neither_rounded_nor_clipped(monkeypatch):
    monkeypatch.setattr(random, "randrange", lambda n: 1)  # every step, contrast first
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    pixel = np.array([[[200, 100, 50]]], np.uint8)  # RGB
    result = PhotometricTransform("RGB").apply_image(pixel)
    bgr = (pixel[..., ::-1].astype(np.float32) + 32) * 1.5
    hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
    hsv[..., 1] *= 1.5
    hsv[..., 0] += 18
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[..., ::-1]
    assert result.dtype == np.float32 and result.max() > 255
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-2)


def test_hue_turns_around_the_circle(monkeypatch):
    monkeypatch.setattr(random, "randrange", lambda n: 1)
    monkeypatch.setattr(random, "uniform", lambda low, high: low)
    red = np.array([[[0, 0, 255]]], np.float32)  # BGR, hue 0
    turned = cv2.cvtColor(PhotometricTransform("BGR").hue(red), cv2.COLOR_BGR2HSV)
    np.testing.assert_allclose(turned[0, 0], [342, 1, 255], rtol=1e-3)


def test_expansion_fills_with_the_mean_and_moves_boxes():
    pad = MeanPadTransform(3, 2, 5, 4, 200, 100, color=(1, 2, 3))
    assert pad.apply_image(IMAGE).shape == (106, 208, 3)
    assert pad.apply_image(IMAGE)[0, 0].tolist() == [1, 2, 3] and pad.apply_image(IMAGE)[2, 3].tolist() == [0, 0, 0]
    assert pad.apply_box(np.array([[0, 0, 10, 10]])).tolist() == [[3, 2, 13, 12]]
    assert pad.apply_segmentation(np.ones((100, 200), np.uint8))[:2].max() == 0


def test_half_of_the_images_expand_up_to_four_times():
    transforms = [RandomExpand((0, 0, 0)).get_transform(IMAGE) for _ in range(400)]
    expanded = [t for t in transforms if isinstance(t, MeanPadTransform)]
    assert 0.4 < len(expanded) / 400 < 0.6
    ratios = np.array([(t.orig_w + t.x0 + t.x1) / t.orig_w for t in expanded])
    assert all(min(t.x0, t.x1, t.y0, t.y1) >= 0 for t in expanded)
    assert 1 <= ratios.min() < 1.2 and 3.8 < ratios.max() <= 4 and 2.3 < ratios.mean() < 2.7


def test_grey_images_stay_grey():
    image = np.full((20, 30, 1), 100, np.uint8)
    for seed in range(8):
        random.seed(seed)
        np.random.seed(seed)
        inputs = T.AugInput(image, boxes=np.array([[5.0, 5, 25, 15]]))
        inputs.crowd = np.zeros(1, bool)
        T.AugmentationList(build_ssd_augmentation(16, "L"))(inputs)
        assert inputs.image.shape == (16, 16, 1) and inputs.image.dtype == np.float32


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match='INPUT.FORMAT is .YUV-BT.601.; choose "RGB", "BGR" or "L"'):
        build_ssd_augmentation(16, "YUV-BT.601")


def test_crops_contain_the_centre_of_an_object_that_is_no_crowd():
    boxes = np.array([[10, 10, 30, 30], [150, 60, 190, 90]], float)
    transforms = [SSDRandomCrop().get_transform(IMAGE, boxes, np.array([False, True])) for _ in range(300)]
    crops = [t for t in transforms if isinstance(t, T.CropTransform)]
    # One option in six leaves the image alone; failing to find a crop adds to them.
    assert 0.7 < len(crops) / 300 < 0.95
    for crop in crops:
        assert crop.x0 < 20 < crop.x0 + crop.w and crop.y0 < 20 < crop.y0 + crop.h
        assert 59 <= crop.w <= 200 and 29 <= crop.h <= 100 and crop.x0 + crop.w <= 200


def test_crops_are_at_most_twice_as_long_as_wide():
    square, box = np.zeros((100, 100, 3)), np.array([[40.0, 40, 60, 60]])
    transforms = [SSDRandomCrop().get_transform(square, box, NO_CROWD) for _ in range(300)]
    ratios = np.array([t.h / t.w for t in transforms if isinstance(t, T.CropTransform)])
    # Whole pixels move the ratio of a side of 30 by up to 1 in 30.
    assert 0.48 <= ratios.min() < 0.6 and 1.7 < ratios.max() <= 2.07


@pytest.mark.parametrize(
    ("image_format", "mean"), [("RGB", (123.68, 116.78, 103.94)), ("BGR", (103.94, 116.78, 123.68))]
)
def test_expansion_fills_with_the_mean_in_the_order_of_the_channels(image_format, mean):
    _, expand, *_ = build_ssd_augmentation(16, image_format)
    pad = next(t for t in iter(lambda: expand.get_transform(IMAGE), None) if isinstance(t, MeanPadTransform))
    np.testing.assert_allclose(pad.apply_image(np.zeros((100, 200, 3), np.float32))[-1, -1], mean, rtol=1e-6)


def test_an_image_of_crowds_alone_is_not_cropped():
    crop = SSDRandomCrop().get_transform(IMAGE, np.array([[10.0, 10, 30, 30]]), ~NO_CROWD)
    assert isinstance(crop, T.NoOpTransform)


def test_stretching_keeps_masks_binary():
    stretch = StretchTransform(100, 200, 50, 50)
    mask = np.zeros((100, 200), np.uint8)
    mask[:, :99] = 1
    assert np.unique(stretch.apply_segmentation(mask)).tolist() == [0, 1]
    assert stretch.apply_image(IMAGE).shape == (50, 50, 3)
    assert stretch.apply_box(np.array([[20, 20, 40, 40]])).tolist() == [[5, 10, 10, 20]]


def annotation(box, **extra):
    x1, y1, x2, y2 = box
    polygon = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": polygon, **extra}


def test_annotations_follow_the_crop():
    objects = [annotation([0, 0, 50, 50]), annotation([40, 0, 120, 50]), annotation([60, 10, 140, 90], iscrowd=1)]
    record = {"height": 100, "width": 200, "annotations": objects}
    crop = T.TransformList([T.CropTransform(50, 0, 100, 100)])
    follow_ssd_augmentation(record, crop, (100, 100))
    # The centre of the first has left the image, that of the others has not.
    assert [a["bbox"] for a in record["annotations"]] == [[40, 0, 120, 50]]
    assert isinstance(record["annotations"][0]["segmentation"], dict)
    assert record["crowd_boxes"].tolist() == [[10, 10, 90, 90]]


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "YOLACT"
    add_data_config(cfg)
    add_yolact_config(cfg)
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT, cfg.INPUT.FORMAT = True, "bitmask", "RGB"
    cfg.INPUT.SSD_AUGMENTATION, cfg.MODEL.YOLACT.IMAGE_SIZE = True, 64
    return cfg


def test_the_mapper_makes_squares_with_boxes_around_their_masks(cfg, tmp_path):
    file = str(tmp_path / "image.png")
    Image.fromarray(np.full((100, 200, 3), 80, np.uint8)).save(file)
    objects = [annotation([20, 20, 90, 80]), annotation([150, 0, 180, 30], iscrowd=1)]
    mapper = MaskDatasetMapper(cfg, is_train=True)
    for _ in range(20):
        mapped = mapper({"file_name": file, "height": 100, "width": 200, "annotations": objects})
        instances = mapped["instances"]
        assert mapped["image"].shape == (3, 64, 64) and len(instances) == 1 and len(mapped["crowd_boxes"]) <= 1
        tight = instances.gt_masks.get_bounding_boxes().tensor
        assert (instances.gt_boxes.tensor - tight).abs().max() <= 1.5


def test_an_image_without_objects_makes_the_loader_take_another(cfg, tmp_path):
    file = str(tmp_path / "image.png")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(file)
    record = {"file_name": file, "height": 40, "width": 40, "annotations": [annotation([5, 5, 20, 20], iscrowd=1)]}
    assert MaskDatasetMapper(cfg, is_train=True)(record) is None
    inference = MaskDatasetMapper(cfg, is_train=False)(record)
    assert "annotations" not in inference
