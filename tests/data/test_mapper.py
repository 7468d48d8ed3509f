"""The training dict: all its maps see the same augmentation, every mask format trains, bad files are named."""

import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

import pentamask  # noqa: F401
from pentamask.blendmask.basis_sem import BasisSemMaker
from pentamask.data.config import add_data_config
from pentamask.data.mapper import MaskDatasetMapper


def _mapper(augmentations=(), **options) -> MaskDatasetMapper:
    defaults = {"image_format": "BGR", "use_instance_mask": True, "instance_mask_format": "bitmask"}
    return MaskDatasetMapper(True, augmentations=list(augmentations), **(defaults | options))


@pytest.fixture
def record(tmp_path) -> dict:
    """A 40x60 image with a polygon of class 1 and a crowd of class 0."""
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    square = {"bbox": [10, 5, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    crowd = {"bbox": [40, 0, 20, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1}
    square["segmentation"] = [[10, 5, 30, 5, 30, 25, 10, 25]]
    crowd["segmentation"] = [[40, 0, 60, 0, 60, 10, 40, 10]]
    return {"file_name": str(path), "height": 40, "width": 60, "annotations": [square, crowd]}


def test_maps_and_masks_move_together(shapes):
    augmentations = [T.RandomCrop("relative", (0.8, 0.7)), T.RandomFlip(prob=1.0)]
    mapper = _mapper(augmentations, target_maker=BasisSemMaker("coco"))
    for record in DatasetCatalog.get("shapes_train_panoptic_separated"):
        before = copy.deepcopy(record)
        mapped = mapper(record)
        assert record == before  # the catalog's record is left alone
        size = mapped["image"].shape[1:]
        assert mapped["basis_sem"].shape == mapped["sem_seg"].shape == size
        assert mapped["basis_sem"].dtype == mapped["sem_seg"].dtype == torch.int64
        torch.testing.assert_close(mapped["basis_sem"] > 0, mapped["sem_seg"] == 0)  # things in both
        for label, mask in zip(mapped["instances"].gt_classes, mapped["instances"].gt_masks.tensor):
            assert (mapped["basis_sem"][mask] == label + 1).all()


def test_crowds_are_dropped_from_the_instances_but_not_from_the_basis_target(record):
    mapped = _mapper(target_maker=BasisSemMaker("coco"))(record)
    assert mapped["instances"].gt_classes.tolist() == [1]
    assert mapped["basis_sem"][5, 50] == 1 and mapped["basis_sem"][10, 15] == 2 and mapped["basis_sem"][30, 5] == 0
    assert "basis_sem" not in _mapper()(record)


@pytest.mark.parametrize(("mask_format", "expected"), [("polygon", PolygonMasks), ("bitmask", BitMasks)])
def test_boxes_are_recomputed_from_the_cropped_masks(record, mask_format, expected):
    crop = T.CropTransform(0, 0, 60, 20)
    mapped = _mapper([crop], instance_mask_format=mask_format, recompute_boxes=True)(record)
    assert type(mapped["instances"].gt_masks) is expected
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[10, 5, 30, 20]]
    assert len(_mapper([T.CropTransform(0, 30, 60, 10)], recompute_boxes=True)(record)["instances"]) == 0


def test_rle_masks_with_polygon_format_name_the_file_and_the_key(shapes):
    record = DatasetCatalog.get("shapes_train")[0]
    assert len(_mapper()(record)["instances"]) == len(record["annotations"])
    with pytest.raises(ValueError, match=r"000001.jpg.*INPUT.MASK_FORMAT bitmask"):
        _mapper(instance_mask_format="polygon")(record)


def test_a_missing_box_is_made_from_the_mask(record):
    (square, crowd) = record["annotations"]
    expected = _mapper()(record)["instances"].gt_boxes.tensor
    rle = mask_util.merge(mask_util.frPyObjects(square["segmentation"], 40, 60))
    for segmentation in (square["segmentation"], rle):
        boxless = {"category_id": 1, "segmentation": segmentation}
        mapped = _mapper()(record | {"annotations": [boxless, crowd]})
        torch.testing.assert_close(mapped["instances"].gt_boxes.tensor, expected)


def test_label_maps_are_read_as_they_are_stored(record, tmp_path):
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 7
    palette = Image.fromarray(labels, mode="L").convert("P")
    palette.putpalette([0, 0, 0] * 7 + [250, 200, 10])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(labels.astype(np.uint16) * 100).save(tmp_path / "deep.png")
    for name, expected in (("palette", 7), ("deep", 700)):
        mapped = _mapper()(record | {"sem_seg_file_name": str(tmp_path / f"{name}.png")})
        assert mapped["sem_seg"].unique().tolist() == [0, expected]
    with pytest.raises(ValueError, match="image.png has mode RGB, expected one label per pixel"):
        _mapper()(record | {"sem_seg_file_name": record["file_name"]})


def test_nothing_is_known_of_the_corners_after_a_rotation(shapes):
    mapper = _mapper([T.RandomRotation([30, 30])], target_maker=BasisSemMaker("coco"), recompute_boxes=True)
    mapped = mapper(DatasetCatalog.get("shapes_train_panoptic_separated")[0])
    assert mapped["sem_seg"][0, 0] == 255 and mapped["basis_sem"][0, 0] == 0
    assert (mapped["sem_seg"] == 255).float().mean() < 0.6


@pytest.mark.parametrize("orientation", [6, 8])
def test_annotations_in_stored_pixels_meet_the_picture_as_it_is_stored(record, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.open(record["file_name"])
    stored = np.array(picture)
    picture.save(record["file_name"], exif=exif)
    np.testing.assert_array_equal(_mapper()(record)["image"].permute(1, 2, 0).numpy(), stored[:, :, ::-1])
    turned = _mapper()({**record, "height": 60, "width": 40, "annotations": []})
    expected = np.rot90(stored, {6: -1, 8: 1}[orientation])[:, :, ::-1]
    np.testing.assert_array_equal(turned["image"].permute(1, 2, 0).numpy(), expected)


def test_an_exchanged_width_and_height_is_an_error(record):
    with pytest.raises(ValueError, match=r"image.png, got \(60, 40\), expect \(40, 60\)"):
        _mapper()(record | {"height": 60, "width": 40})


def test_an_image_of_another_size_or_a_corrupt_one_is_named(record):
    with pytest.raises(ValueError, match=r"image.png.*width/height"):
        _mapper()(record | {"height": 39})
    with open(record["file_name"], "r+b") as file:
        file.truncate(300)
    with pytest.raises(OSError, match=r"Cannot read the image file .*image.png"):
        _mapper()(record)
    with open(record["file_name"], "wb") as file:
        file.write(b"no image")
    with pytest.raises(OSError, match=r"Cannot read the image file .*image.png"):
        _mapper()(record)


def test_an_image_without_annotations_trains_and_inference_keeps_only_the_image(record):
    mapped = _mapper([T.ResizeShortestEdge(20)], target_maker=BasisSemMaker("coco"))(record | {"annotations": []})
    assert len(mapped["instances"]) == 0 and mapped["basis_sem"].sum() == 0
    inference = MaskDatasetMapper(False, augmentations=[], image_format="RGB")(record)
    assert set(inference) == {"file_name", "height", "width", "image"}


def test_the_config_decides(record):
    cfg = get_cfg()
    add_data_config(cfg)
    cfg.INPUT.CROP.ENABLED = True
    cfg.MODEL.MASK_ON = True
    mapper = MaskDatasetMapper(cfg, is_train=True)
    assert mapper.recompute_boxes and mapper.target_maker is None
    assert mapper(record)["instances"].has("gt_masks")


def test_proposals_follow_the_augmentation(record):
    """Detectron2's precomputed proposals, best first and of these the wanted number."""
    boxes, logits = [[0.0, 0, 30, 20], [30, 20, 60, 40], [0, 0, 60, 40]], [3.0, 2.0, 1.0]
    record |= {"proposal_boxes": np.array(boxes), "proposal_objectness_logits": np.array(logits)}
    record["proposal_bbox_mode"] = BoxMode.XYXY_ABS
    mapper = _mapper([T.Resize((80, 120))], precomputed_proposal_topk=2)
    proposals = mapper(record)["proposals"]
    assert proposals.proposal_boxes.tensor.tolist() == [[0, 0, 60, 40], [60, 40, 120, 80]]
    assert proposals.objectness_logits.tolist() == [3, 2]


def test_augmentations_see_which_boxes_are_crowds(record):
    seen = {}

    class Spy(T.Augmentation):
        def get_transform(self, image, boxes, crowd):
            seen.update(boxes=boxes.tolist(), crowd=crowd.tolist())
            return T.NoOpTransform()

    _mapper([Spy()])(record)
    assert seen == {"boxes": [[10, 5, 30, 25], [40, 0, 60, 10]], "crowd": [False, True]}
