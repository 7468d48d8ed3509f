"""Datasets are checked while Detectron2 loads them, whichever way they are registered."""

import json
import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.structures import BoxMode
from PIL import Image

from pentamask.data.checks import DatasetError, checked_datasets

ANNOTATION = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 20], "area": 400, "iscrowd": 0}
ANNOTATION |= {"segmentation": [[10, 5, 30, 5, 30, 25, 10, 25]]}


@pytest.fixture
def coco_file(tmp_path):
    """Writes a file of one 40x60 image with one annotation, changed as said; its name and how to register it."""

    def write(**changes) -> str:
        path = tmp_path / "user.json"
        contents = {"images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}]}
        contents |= {"annotations": [ANNOTATION | changes], "categories": [{"id": 1, "name": "a"}]}
        path.write_text(json.dumps(contents))
        return str(path)

    yield write
    for name in ("user", "by_function"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name)


def _load(name: str, **options) -> list[dict]:
    with checked_datasets([name], **{"train": True, "masks": True} | options):
        return DatasetCatalog.get(name)


def test_a_coco_file_is_checked_before_detectron2_drops_anything(coco_file):
    path = coco_file(image_id="1")
    register_coco_instances("user", {}, path, "images")
    load = DatasetCatalog["user"]
    with pytest.raises(DatasetError, match=rf"(?s)'user' \({path}\) has mistakes:.*\"image_id\" of another type"):
        _load("user")
    assert DatasetCatalog["user"] is load and len(load()) == 1  # nothing of the check is left behind


def test_what_is_mended_is_logged_once(coco_file, caplog):
    register_coco_instances("user", {}, coco_file(bbox=[10, 5, 0, 20]), "images")
    with caplog.at_level(logging.INFO, "pentamask"):
        assert _load("user", train=False) == _load("user", train=False)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("pentamask")]
    assert line.endswith("1 boxes without width or height are left out of training.")


def test_records_of_a_function(coco_file):
    path = coco_file()
    records = load_coco_json(path, "images", "by_function")
    DatasetCatalog.register("by_function", lambda: records)
    MetadataCatalog.get("by_function").thing_classes = ["a"]
    assert _load("by_function") is records
    annotation = records[0]["annotations"][0]
    annotation |= {"bbox": [10, 5, 30, 25], "bbox_mode": BoxMode.XYXY_ABS}
    assert _load("by_function", masks=False) is records
    for changes, message in (
        ({"category_id": 1}, r'"category_id" that is no number from 0 to 0: annotation 0 of image 1 \(images/a.jpg\)'),
        ({"bbox": [10, 5, float("nan"), 25]}, '"bbox" with NaN or infinity'),
        ({"segmentation": [[10, 5, 30, 5, 30, float("nan")]]}, "polygons with coordinates that are NaN"),
        ({"segmentation": {"size": [40, 60], "counts": b"garbage"}}, 'RLE whose "counts" do not add up'),
    ):
        wrong = [records[0] | {"annotations": [annotation | changes]}]
        DatasetCatalog.remove("by_function")
        DatasetCatalog.register("by_function", lambda wrong=wrong: wrong)
        with pytest.raises(DatasetError, match=message):
            _load("by_function")
    del annotation["bbox_mode"]
    DatasetCatalog.remove("by_function")
    DatasetCatalog.register("by_function", lambda: [{"file_name": "a.jpg", "annotations": [annotation]}])
    with pytest.raises(DatasetError, match='annotations without "bbox_mode": annotation 0 of image 0'):
        _load("by_function")


def test_some_pictures_are_opened(coco_file, tmp_path):
    Image.new("L", (40, 60)).save(tmp_path / "a.jpg")
    register_coco_instances("user", {}, coco_file(), str(tmp_path))
    with pytest.raises(DatasetError, match="a.jpg is 40 x 60, its annotations say 60 x 40"):
        _load("user")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DatasetError, match="Cannot read the image file .*a.jpg"):
        _load("user")
