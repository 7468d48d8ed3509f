"""Both forms of panoptic datasets give the same training instances."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from pentamask import model_zoo
from pentamask.data.mapper import MaskDatasetMapper
from pentamask.data.panoptic import (
    PanopticLabels,
    Segment,
    dataset_category_ids,
    segments_from_annotations,
    segments_from_png,
    segments_to_instances,
)

LABELS = PanopticLabels(thing_ids=(0, 2), stuff_ids=(1, 5))


@pytest.mark.parametrize("form, stuff", [("panoptic", (6, 7, 8)), ("panoptic_separated", (1, 2, 3))])
def test_labels_follow_from_the_metadata(form, stuff):
    labels = PanopticLabels.of(MetadataCatalog.get(f"shapes_val_{form}"))
    assert labels.thing_ids == tuple(range(6)) and labels.stuff_ids == stuff


def test_coco_has_80_things_and_53_stuff_classes():
    for name in ("coco_2017_val_panoptic", "coco_2017_val_panoptic_separated"):
        labels = PanopticLabels.of(MetadataCatalog.get(name))
        assert (len(labels.thing_ids), len(labels.stuff_ids)) == (80, 53)
        assert labels.label(labels.stuff_ids[0], is_thing=False) == 80


@pytest.fixture
def things_in_a_file(tmp_path):
    """Registers COCO files whose categories are not known before they are loaded; the last has another number."""
    names = {"late": 2, "late_too": 2, "late_other": 3}
    for name, count in names.items():
        categories = [{"id": i, "name": str(i)} for i in range(1, count + 1)]
        contents = {"images": [], "annotations": [], "categories": categories}
        (tmp_path / f"{name}.json").write_text(json.dumps(contents))
        register_coco_instances(name, {}, str(tmp_path / f"{name}.json"), str(tmp_path))
    yield
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)


def test_a_dataset_is_loaded_before_its_classes_are_asked_for(things_in_a_file):
    assert PanopticLabels.of_dataset("late") == PanopticLabels((0, 1), ())
    assert dataset_category_ids(["late"]) == (0, 1)
    assert PanopticLabels.of_dataset(["late", "late_too"]) == PanopticLabels((0, 1), ())
    with pytest.raises(ValueError, match="'late' and 'late_other' cannot be trained on together"):
        PanopticLabels.of_dataset(["late", "late_other"])


def test_results_of_a_dataset_that_is_not_here_have_class_numbers(things_in_a_file, tmp_path, caplog):
    (tmp_path / "late.json").unlink()
    with caplog.at_level(logging.INFO):
        assert dataset_category_ids("late") is None
    assert "'late' cannot be loaded here" in caplog.text
    assert dataset_category_ids("not registered") is None


def test_png_segments():
    png = np.zeros((4, 6, 3), dtype=np.uint8)
    png[:, :2] = (7, 0, 0)
    png[:, 2:4] = (1, 2, 3)
    png[:, 4:] = (9, 0, 0)
    infos = [
        {"id": 7, "category_id": 2, "isthing": True, "bbox": [0, 0, 2, 3]},
        {"id": 1 + 2 * 256 + 3 * 65536, "category_id": 5, "isthing": False, "iscrowd": 0},
        {"id": 9, "category_id": 0, "isthing": True, "iscrowd": 1},
    ]
    thing, stuff = segments_from_png(png, infos, LABELS)
    assert (thing.label, stuff.label) == (1, 3)
    assert thing.box.tolist() == [0, 0, 2, 3]  # the file's
    assert stuff.box.tolist() == [2, 0, 4, 4]  # the mask's
    assert stuff.mask[:, 2:4].all() and stuff.mask.sum() == 8


def test_annotations_and_semantic_labels():
    square = {"bbox": [1, 1, 2, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2}
    square["segmentation"] = [[1, 1, 3, 1, 3, 3, 1, 3]]
    sem_seg = np.full((4, 6), 255, dtype=np.uint8)
    sem_seg[:, 4:] = 1
    segments = segments_from_annotations([square, square | {"iscrowd": 1}], sem_seg, (4, 6), LABELS)
    assert [s.label for s in segments] == [1, 2]
    assert segments[0].mask.sum() == 4 and segments[1].box.tolist() == [4, 0, 6, 4]


def test_a_box_outside_the_crop_goes_and_an_empty_mask_may_stay():
    mask = np.zeros((10, 10), dtype=np.uint8)
    mask[0, 9] = mask[9, 0] = 1
    segments = [Segment(0, mask, np.array([0.0, 0, 10, 10])), Segment(1, mask, np.array([9.0, 0, 10, 1]))]
    instances = segments_to_instances(segments, T.CropTransform(2, 2, 5, 4), (4, 5))
    assert instances.gt_classes.tolist() == [0]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 5, 4]]
    assert instances.gt_masks.tensor.shape == (1, 4, 5) and not instances.gt_masks.tensor.any()
    assert len(segments_to_instances([], T.NoOpTransform(), (4, 5))) == 0


def _mapped(name: str, flip: float) -> list[dict]:
    cfg = model_zoo.get_config("shapes/PanopticSegFormer_R_50_thin.yaml")
    cfg.DATASETS.TRAIN = (name,)
    mapper = MaskDatasetMapper(cfg)
    mapper.augmentations = T.AugmentationList([T.RandomFlip(prob=flip)])
    return [mapper(record) for record in DatasetCatalog.get(name)]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_both_forms_agree(shapes, flip):
    standard, separated = (_mapped(f"shapes_train_panoptic{form}", flip) for form in ("", "_separated"))
    for a, b in zip(standard, separated, strict=True):
        assert torch.equal(a["image"], b["image"])
        a, b = a["instances"], b["instances"]
        stuff = [{int(c): m for c, m in zip(x.gt_classes, x.gt_masks.tensor) if c >= 6} for x in (a, b)]
        assert stuff[0].keys() == stuff[1].keys()
        assert all(torch.equal(stuff[0][c], stuff[1][c]) for c in stuff[0])
        assert sorted(a.gt_classes.tolist()) == sorted(b.gt_classes.tolist())
        for instances in (a, b):
            boxes = instances.gt_boxes.tensor
            torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2] > 0, torch.ones(len(boxes), 2, dtype=torch.bool))


def test_a_dataset_that_is_not_panoptic_is_named(shapes):
    cfg = model_zoo.get_config("shapes/PanopticSegFormer_R_50_thin.yaml")
    record = DatasetCatalog.get("shapes_train")[0]
    del record["annotations"]
    with pytest.raises(ValueError, match="neither panoptic segments nor annotations: DATASETS.TRAIN"):
        MaskDatasetMapper(cfg)(record)


def test_a_panoptic_file_of_another_size_is_named(shapes):
    cfg = model_zoo.get_config("shapes/PanopticSegFormer_R_50_thin.yaml")
    records = DatasetCatalog.get("shapes_train_panoptic")
    record = records[0] | {"height": None}
    mapper = MaskDatasetMapper(cfg)
    other = next(r for r in records if mapper(r)["image"].shape != mapper(records[0])["image"].shape)
    record = records[0] | {"pan_seg_file_name": other["pan_seg_file_name"]}
    with pytest.raises(ValueError, match=other["pan_seg_file_name"]):
        mapper(record)
