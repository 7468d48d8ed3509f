"""The generated dataset: reproducible, consistent labels, Detectron2's formats, made once."""

import json
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, inference_on_dataset
from panopticapi.utils import rgb2id
from PIL import Image

import pentamask  # noqa: F401
from pentamask.data.shape_scenes import STUFF_CLASSES, THING_CLASSES, draw_scene
from pentamask.data.shapes import default_root, write_shapes


def test_scene_is_reproducible_and_its_masks_are_visible_parts():
    scene, same = (draw_scene(np.random.default_rng([3, 5])) for _ in range(2))
    np.testing.assert_array_equal(scene.image, same.image)
    assert scene.image.dtype == np.uint8 and scene.image.shape[:2] == scene.stuff.shape
    assert np.sum(scene.masks, axis=0).max() == 1  # nothing is labelled twice
    assert scene.stuff.max() < len(STUFF_CLASSES)


def test_scenes_use_every_class_and_hide_some_things():
    scenes = [draw_scene(np.random.default_rng([9, i])) for i in range(40)]
    assert {label for scene in scenes for label in scene.classes} == set(range(len(THING_CLASSES)))
    assert {label for scene in scenes for label in np.unique(scene.stuff)} == set(range(len(STUFF_CLASSES)))
    touching = 0
    for scene in scenes:
        grown = [np.roll(mask, 1, axis) | mask for mask in scene.masks for axis in (0, 1)]
        touching += np.sum(grown[::2], axis=0).max() > 1 or np.sum(grown[1::2], axis=0).max() > 1
    assert touching > 10  # things lie on things in many pictures


def test_instance_records_match_the_panoptic_and_semantic_maps(shapes):
    instances = DatasetCatalog.get("shapes_train")
    panoptic = DatasetCatalog.get("shapes_train_panoptic")
    separated = DatasetCatalog.get("shapes_train_panoptic_separated")
    assert len(instances) == len(panoptic) == len(separated) == 12
    for record, segments, semantic in zip(instances, panoptic, separated):
        id_map = rgb2id(np.array(Image.open(segments["pan_seg_file_name"])))
        labels = np.array(Image.open(semantic["sem_seg_file_name"]))
        assert id_map.shape == labels.shape == (record["height"], record["width"])
        things = [segment for segment in segments["segments_info"] if segment["isthing"]]
        assert [a["category_id"] for a in record["annotations"]] == [s["category_id"] for s in things]
        for annotation, segment in zip(record["annotations"], things):
            mask = mask_util.decode(annotation["segmentation"]).astype(bool)
            np.testing.assert_array_equal(mask, id_map == segment["id"])
            assert (labels[mask] == 0).all()
            assert annotation["bbox"] == segment["bbox"]
        for segment in segments["segments_info"]:
            if not segment["isthing"]:
                stuff_class = segment["category_id"] - len(THING_CLASSES) + 1
                np.testing.assert_array_equal(labels == stuff_class, id_map == segment["id"])


@pytest.mark.parametrize(
    ("name", "evaluator_type", "things", "stuff"),
    [
        ("shapes_val", "coco", 6, None),
        ("shapes_val_panoptic", "coco_panoptic_seg", 9, 9),
        ("shapes_val_panoptic_separated", "coco_panoptic_seg", 6, 4),
        ("shapes_val_panoptic_stuffonly", "sem_seg", 6, 4),
    ],
)
def test_metadata_is_known_before_the_data_is_made(name, evaluator_type, things, stuff):
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == evaluator_type
    assert len(metadata.thing_classes) == len(metadata.thing_colors) == things
    assert len(metadata.get("stuff_classes", ())) == (stuff or 0)
    assert list(metadata.thing_dataset_id_to_contiguous_id.values()) == list(range(6))


@pytest.mark.parametrize("name", ["shapes_val_panoptic", "shapes_val_panoptic_separated"])
def test_the_ground_truth_as_prediction_has_panoptic_quality_100(shapes, name):
    """Goes through Detectron2's own evaluator, so ids, categories and files fit together."""
    standard = {r["image_id"]: r for r in DatasetCatalog.get("shapes_val_panoptic")}
    metadata = MetadataCatalog.get(name)
    offset = min(c for i, c in metadata.stuff_dataset_id_to_contiguous_id.items() if i > 0) - len(THING_CLASSES)

    def predict(batch):
        record = standard[batch[0]["image_id"]]
        id_map = torch.as_tensor(rgb2id(np.array(Image.open(record["pan_seg_file_name"]))).astype("int32"))
        segments = [dict(s) for s in record["segments_info"]]
        for segment in segments:
            segment["category_id"] += 0 if segment["isthing"] else offset
        return [{"panoptic_seg": (id_map, segments)}]

    batches = [[record] for record in standard.values()]
    results = inference_on_dataset(predict, batches, COCOPanopticEvaluator(name))
    assert results["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_processes_that_start_at_once_share_one_copy(tmp_path):
    root = str(tmp_path / "data" / "shapes")
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(write_shapes, [root] * 3, [{"train": 3}] * 3))
    with open(os.path.join(root, "annotations", "instances_train.json")) as file:
        assert len(json.load(file)["images"]) == 3
    assert sorted(os.listdir(tmp_path / "data")) == ["shapes", "shapes.lock"]


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OSError, match=r"file/shapes.*DETECTRON2_DATASETS"):
        write_shapes(str(blocked / "shapes"), {"train": 1})


def test_the_files_lie_under_the_datasets_folder(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data")
    assert default_root().startswith("/data/shapes/")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.setenv("FVCORE_CACHE", "/cache")
    assert default_root().startswith("/cache/pentamask/shapes/")
