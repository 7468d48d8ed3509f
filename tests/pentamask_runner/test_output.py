"""Files for other programs."""

import dataclasses
import json

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from pentamask_runner import output
from pentamask_runner.drawing import Region, colour_of
from pentamask_runner.output import coco_results, encode_rle, save_panoptic
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
    segments = [
        {"id": 1, "isthing": True, "category_id": 0, "score": 0.8},
        {"id": 70000, "isthing": False, "category_id": 1},
    ]
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


def test_drawings_name_what_they_show(monkeypatch) -> None:
    """Of a panoptic model its segments, else the instances, the best on top; identities give the colours."""
    drawn: list[Region] = []
    monkeypatch.setattr(output, "draw_regions", lambda pixels, regions: drawn.extend(regions))
    plain, instances = np.full((20, 30, 3), 100, np.uint8), dataclasses.replace(result(), panoptic=None)
    output.draw(plain, instances, ["cat"])
    output.draw(plain, instances, ["cat"], identities=[7, 8])
    output.draw(plain, result(), ["cat"], ["sky", "sea"], [7, None])
    captions = ["1 60%", "cat 90%", "1 60% #8", "cat 90% #7", "cat 80% #7", "sea"]
    assert [region.caption for region in drawn] == captions
    assert [region.colour for region in drawn] == [colour_of(number) for number in (1, 0, 8, 7, 7, -2)]
    for region, i in zip(drawn, (1, 0, 1, 0, 0, 1)):
        assert (region.mask == result().masks[i]).all()
    assert drawn[1].box == [3, 2, 12, 9] and drawn[5].box is None
    output.draw(plain, dataclasses.replace(instances, masks=None), ["cat"])
    assert drawn[-1].mask is None
