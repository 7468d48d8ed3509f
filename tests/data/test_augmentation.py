"""Where the crops may fall, and which augmentations the config keys ask for."""

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import transforms as T

from pentamask.data.augmentation import InstanceCrop, ResizeShortestEdge, build_augmentation
from pentamask.data.config import add_data_config

IMAGE = np.zeros((100, 200, 3), np.uint8)


def _crops(boxes, crop_instance, repeats=200):
    np.random.seed(0)
    crop = InstanceCrop("relative_range", [0.5, 0.5], crop_instance)
    return [crop.get_transform(IMAGE, np.array(boxes, float).reshape(-1, 4)) for _ in range(repeats)]


def test_crop_keeps_the_centre_of_the_instance_and_stays_inside():
    for crop in _crops([(150, 10, 190, 30)], True):
        assert crop.x0 <= 170 <= crop.x0 + crop.w and crop.y0 <= 20 <= crop.y0 + crop.h
        assert crop.x0 >= 0 and crop.x0 + crop.w <= 200 and crop.y0 >= 0 and crop.y0 + crop.h <= 100
        assert 100 <= crop.w <= 200 and 50 <= crop.h <= 100


@pytest.mark.parametrize("resizer", ["pil", "opencv"])
def test_a_long_strip_keeps_its_short_edge(resizer):
    cfg = get_cfg()
    add_data_config(cfg)
    cfg.INPUT.RESIZER = resizer
    (resize,) = build_augmentation(cfg, is_train=False)
    strip = np.zeros((1, 10000, 3), np.uint8)
    assert resize.get_transform(strip).apply_image(strip).shape == (1, 1333, 3)


def test_crop_chooses_among_all_instances_and_may_cut_them():
    crops = _crops([(0, 0, 10, 10), (190, 90, 200, 100)], True)
    assert {crop.x0 == 0 and crop.w < 190 for crop in crops} == {True, False}
    assert any(150 < crop.x0 + crop.w < 190 for crop in _crops([(150, 10, 190, 30), (0, 0, 40, 100)], True))


def test_crop_that_may_not_cut_instances_grows_through_a_chain_of_boxes():
    chain = [(60, 40, 100, 60), (90, 20, 160, 45), (0, 90, 5, 100)]
    for crop in _crops(chain, False):
        edges = np.array([crop.x0, crop.y0, crop.x0 + crop.w, crop.y0 + crop.h])
        for x1, y1, x2, y2 in chain:
            overlaps = x1 < edges[2] and x2 > edges[0] and y1 < edges[3] and y2 > edges[1]
            inside = x1 >= edges[0] and x2 <= edges[2] and y1 >= edges[1] and y2 <= edges[3]
            assert inside or not overlaps


def test_crop_of_an_image_without_instances_and_of_boxes_beyond_the_image():
    assert all(crop.w >= 100 for crop in _crops([], True))
    assert all(crop.x0 + crop.w == 200 for crop in _crops([(300, 10, 400, 20)], True))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [ResizeShortestEdge, T.RandomFlip]),
        (["INPUT.HFLIP_TRAIN", False], [ResizeShortestEdge]),
        (["INPUT.CROP.ENABLED", True], [InstanceCrop, ResizeShortestEdge, T.RandomFlip]),
        (
            ["INPUT.CROP.ENABLED", True, "INPUT.IS_ROTATE", True],
            [InstanceCrop, T.RandomRotation, ResizeShortestEdge, T.RandomFlip],
        ),
    ],
)
def test_config_chooses_the_augmentations_in_the_authors_order(options, expected):
    cfg = get_cfg()
    add_data_config(cfg)
    cfg.merge_from_list(options)
    assert [type(a) for a in build_augmentation(cfg, is_train=True)] == expected
    assert [type(a) for a in build_augmentation(cfg, is_train=False)] == [ResizeShortestEdge]


def test_rotation_without_crop_is_an_error_naming_both_keys():
    cfg = get_cfg()
    add_data_config(cfg)
    cfg.INPUT.IS_ROTATE = True
    with pytest.raises(ValueError, match=r"INPUT.IS_ROTATE.*INPUT.CROP.ENABLED"):
        build_augmentation(cfg, is_train=True)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_data_config(cfg)
    return cfg


def test_opencv_resizer_keeps_sizes_and_labels(cfg):
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    labels = (np.arange(30 * 50, dtype=np.uint8) % 7).reshape(30, 50)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 45, 70
    plain, opencv = [], []
    for resizer, out in (("pil", plain), ("opencv", opencv)):
        cfg.INPUT.RESIZER = resizer
        (resize,) = build_augmentation(cfg, is_train=False)
        transform = resize.get_transform(image)
        out += [transform.apply_image(image), transform.apply_segmentation(labels)]
    np.testing.assert_array_equal(opencv[0], cv2.resize(image, (70, 42)))
    np.testing.assert_array_equal(opencv[1], plain[1])
    assert abs(opencv[0].astype(int) - plain[0]).max() <= 2  # no smoothing is needed to make it larger


def test_unknown_resizer_is_named(cfg):
    cfg.INPUT.RESIZER = "nearest"
    with pytest.raises(ValueError, match="INPUT.RESIZER is 'nearest'"):
        build_augmentation(cfg, is_train=False)


def test_half_of_the_images_are_resized_and_cropped_first(cfg):
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute_range", [20, 24]
    cfg.INPUT.CROP.RESIZE_BEFORE = [30]
    first = build_augmentation(cfg, is_train=True)[0]
    sizes = []
    for _ in range(40):
        inputs = T.AugInput(np.zeros((60, 90, 3), dtype=np.uint8))
        first(inputs)
        sizes.append(inputs.image.shape[:2])
    cropped = [size for size in sizes if size != (60, 90)]
    assert 5 < len(cropped) < 35
    assert all(20 <= side <= 24 for size in cropped for side in size)
