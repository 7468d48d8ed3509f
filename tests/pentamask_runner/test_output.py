"""Files for other programs."""

import json

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from pentamask_runner.output import coco_results, draw, encode_rle, save_panoptic
from pentamask_runner.runner import Result
from PIL import Image
from pycocotools import mask as mask_util


@pytest.mark.parametrize("kind", ["random", "empty", "full", "blocks"])
def test_run_lengths_are_those_of_pycocotools(kind: str) -> None:
    rng = np.random.default_rng(0)
    mask = {
        "random": rng.random((37, 51)) > 0.5,
        "empty": np.zeros((5, 4), bool),
        "full": np.ones((300, 400), bool),
        "blocks": np.kron(rng.random((4, 6)) > 0.5, np.ones((90, 70))).astype(bool),
    }[kind]
    expected = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert encode_rle(mask) == {"size": list(mask.shape), "counts": expected}


def result() -> Result:
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 2:9, 3:12] = masks[1, 10:15, 20:28] = True
    boxes = np.array([[3, 2, 12, 9], [20, 10, 28, 15]], np.float32)
    ids = masks[0] * 1 + masks[1] * 70000
    segments = [{"id": 1, "isthing": True}, {"id": 70000, "isthing": False}]
    return Result(
        boxes, np.array([0.9, 0.6], np.float32), np.array([0, 1]), masks, None, (ids.astype(np.int32), segments)
    )


def test_coco_results() -> None:
    first, second = coco_results(result(), 7, "a.jpg", [5, 9])
    assert (first["bbox"], first["category_id"], first["image_id"]) == ([3.0, 2.0, 9.0, 7.0], 5, 7)
    assert mask_util.area({**second["segmentation"], "counts": second["segmentation"]["counts"].encode()}) == 40
    assert coco_results(result(), 7, "a.jpg", [])[1]["category_id"] == 1


def test_panoptic_files(tmp_path) -> None:
    save_panoptic(result(), str(tmp_path), "a")
    assert np.array_equal(rgb2id(np.array(Image.open(tmp_path / "a.png"))), result().panoptic[0])
    assert [segment["id"] for segment in json.loads((tmp_path / "a.json").read_text())] == [1, 70000]


def test_drawing_marks_the_objects() -> None:
    plain = np.full((20, 30, 3), 100, np.uint8)
    drawn = draw(plain, result(), ["cat"])
    assert drawn.shape == plain.shape and (plain == 100).all()
    assert (drawn[12, 24] != 100).any() and (drawn[18, 2] == 100).all()
