"""Every planted mistake in panoptic data is named with its image and segment."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_panoptic
from PIL import Image

from pentamask.data.checks import DatasetError, checked_datasets

METADATA = {"thing_classes": ["a", "b"], "stuff_classes": ["a", "b"]}
METADATA |= {"thing_dataset_id_to_contiguous_id": {1: 0}, "stuff_dataset_id_to_contiguous_id": {2: 1}}


def _load(
    folder: Path, segments: list[dict] | None = None, *, train: bool = True, image: str = "1.jpg", file=None, **metadata
):
    """Register one 4x6 image, whose PNG has segments 1 (8 pixels) and 300 (16 pixels), and load it checked."""
    ids = np.zeros((4, 6, 3), np.uint8)
    ids[:, :2, 0] = 1
    ids[:, 2:] = (300 - 256, 1, 0)
    Image.fromarray(ids).save(folder / "1.png")
    Image.new("RGB", (6, 4)).save(folder / image)
    annotations = [] if segments is None else [{"image_id": 1, "file_name": "1.png", "segments_info": segments}]
    contents = {"annotations": annotations, "categories": [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 0}]}
    (folder / "panoptic.json").write_text(json.dumps(contents | (file or {})))
    merged = {key: value for key, value in (METADATA | metadata).items() if value is not None}
    register_coco_panoptic("planted", merged, str(folder), str(folder), str(folder / "panoptic.json"))
    try:
        with checked_datasets(["planted"], train=train, masks=True):
            return DatasetCatalog.get("planted")
    finally:
        DatasetCatalog.remove("planted")
        MetadataCatalog.pop("planted")


def _segments(**changes) -> list[dict]:
    """A thing and stuff; `changes` are made to the thing."""
    thing = {"id": 1, "category_id": 1, "iscrowd": 0, "area": 8, "bbox": [0, 0, 2, 4]}
    return [thing | changes, {"id": 300, "category_id": 2, "iscrowd": 0, "area": 16, "bbox": [2, 0, 4, 4]}]


def test_good_data_loads(tmp_path):
    for train in (True, False):
        assert len(_load(tmp_path, _segments(), train=train)[0]["segments_info"]) == 2


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (_segments(id=0), '"id" is no number from 1 .*: segment 0 of image 1 '),
        (_segments(id="1"), "\"id\" is no number from 1 .*: segment '1' of image 1 "),
        (_segments(id=300), 'segments with the same "id" in one image: segment 300 of image 1'),
        (_segments(id=5), "segments that have no pixel in their PNG file: segment 5 of image 1 .*1.png"),
        (_segments(bbox=[0, 0, 0, 4]), '"bbox" that is not x, y, width, height with an area .*: segment 1 of image 1'),
        (_segments(bbox=[0, float("nan"), 2, 4]), '"bbox" that is not x, y, width, height'),
        (_segments(category_id=9), "category_id that the metadata has neither .*: 9 of segment 1 of image 1 .*1.png"),
        ([s | {"iscrowd": 1} for s in _segments()], 'all 2 segments have "iscrowd" 1'),
        ([], "no image has a segment"),
        (None, '"annotations" is missing or empty'),
    ],
)
def test_mistakes_are_named(tmp_path, segments, message):
    with pytest.raises(DatasetError, match=message) as error:
        _load(tmp_path, segments)
    assert re.search(r"'planted' \(.*panoptic.json\) has mistakes", str(error.value))


def test_a_wrong_area_would_make_a_wrong_panoptic_quality(tmp_path):
    _load(tmp_path, _segments(area=9))
    with pytest.raises(
        DatasetError, match='"area" is not their number of pixels in the PNG file: segment 1 of image 1'
    ):
        _load(tmp_path, _segments(area=9), train=False)


def test_mistakes_in_the_registration(tmp_path):
    with pytest.raises(DatasetError, match="1.jpg does not exist .*PNG file with .jpg"):
        _load(tmp_path, _segments(), image="1.jpeg")
    with pytest.raises(DatasetError, match="lacks thing_dataset_id_to_contiguous_id .*{} for none"):
        _load(tmp_path, _segments(), stuff_dataset_id_to_contiguous_id=None)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"categories": []}, '"category_id" of segments that is no "id" of "categories": 1, 2'),
        ({"categories": [{"id": 1}, {"id": 2, "isthing": 0}]}, '"categories" without "id" or "isthing": {\'id\': 1}'),
        (
            {"annotations": [{"image_id": "1", "file_name": "1.png", "segments_info": _segments()}]},
            r"\"image_id\" that is the id of no image \(text and number are different\): '1'",
        ),
    ],
)
def test_what_the_evaluation_reads(tmp_path, file, message):
    assert len(_load(tmp_path, _segments(), file=file)) == 1
    with pytest.raises(DatasetError, match=message):
        _load(tmp_path, _segments(), train=False, file=file)
