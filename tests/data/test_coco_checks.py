"""Every planted mistake is named with its image and annotation; what is harmless is counted in one line."""

import copy
import re

import numpy as np
import pycocotools.mask as mask_util
import pytest

from pentamask.data.coco_checks import check_coco
from pentamask.data.rle_checks import compressed_areas

POLYGON = [[10, 5, 30, 5, 30, 25, 10, 25]]
MASK = np.zeros((40, 60), np.uint8, order="F")
MASK[5:25, 10:30] = 1
RLE = mask_util.encode(MASK) | {"counts": mask_util.encode(MASK)["counts"].decode()}


def _coco(**changes) -> dict:
    """Four annotations of three 40x60 images; `changes` are made to annotation 2, where None removes a key."""
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (1, 2, 3)]
    annotation = {"category_id": 7, "bbox": [10, 5, 20, 20], "area": 400, "iscrowd": 0, "segmentation": POLYGON}
    annotations = [{"id": i, "image_id": (i + 1) // 2, **copy.deepcopy(annotation)} for i in (1, 2, 3, 4)]
    annotations[1] = {key: value for key, value in (annotations[1] | changes).items() if value is not None}
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "a"}, {"id": 9, "name": "b"}],
    }


def test_nothing_is_found_in_good_data():
    findings = check_coco(_coco(), train=True, masks=True)
    assert findings.errors == [] and findings.notes == ["1 of 3 images have no annotation"]
    for good in (RLE, {"size": [40, 60], "counts": [405, 20, 40 * 60 - 425]}, [*POLYGON, [0, 0, 60, 0, 60, 40]]):
        assert check_coco(_coco(segmentation=good), train=True, masks=True).errors == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": []}, '"bbox" that is no list of 4 numbers'),
        ({"bbox": ["1", "2", "3", "4"]}, '"bbox" that is no list of 4 numbers'),
        ({"bbox": [1, 2, 3]}, '"bbox" that is no list of 4 numbers'),
        ({"bbox": 5}, '"bbox" that is no list of 4 numbers'),
        ({"bbox": [1, 2, float("nan"), 4]}, '"bbox" with NaN or infinity'),
        ({"bbox": [1, 2, float("inf"), 4]}, '"bbox" with NaN or infinity'),
        ({"bbox": [1, 2, -3, 4]}, '"bbox" with negative width or height'),
        ({"bbox": None, "segmentation": None}, 'annotations with neither "bbox" nor mask'),
        ({"segmentation": None}, "1 annotations do not have a mask"),
        ({"segmentation": []}, "1 annotations do not have a mask"),
        ({"segmentation": POLYGON[0]}, '"segmentation" that is one flat list of numbers'),
        ({"segmentation": [[10, 5, 30, 5, 30, 25, 10]]}, "polygons with an odd number of coordinates"),
        ({"segmentation": [[10, 5, 30, 5]]}, "masks without a polygon of at least 3 points"),
        ({"segmentation": [[]]}, "masks without a polygon of at least 3 points"),
        ({"segmentation": [[10, 5, 30, 5, float("nan"), 25]]}, "polygons with coordinates that are NaN"),
        ({"segmentation": [[10, 5, 30, 5, 30, 1e9]]}, "polygons that lie far outside"),
        ({"segmentation": [["10", "5", "30", "5", "30", "25"]]}, "polygons that are not lists of numbers"),
        ({"segmentation": [[[10, 5], [30, 5], [30, 25]]]}, "polygons that are not lists of numbers"),
        ({"segmentation": [None]}, "polygons that are not lists of numbers"),
        ({"segmentation": "polygon"}, "neither a list of polygons nor RLE"),
        ({"segmentation": RLE | {"size": [60, 40]}}, 'RLE whose "size" .* is not its image'),
        ({"segmentation": RLE | {"counts": "garbage"}}, 'RLE whose "counts" do not add up'),
        ({"segmentation": RLE | {"counts": RLE["counts"][:-1]}}, 'RLE whose "counts" do not add up'),
        ({"segmentation": {"size": [40, 60], "counts": [405, 20, 7]}}, 'RLE whose "counts" do not add up'),
        ({"segmentation": {"size": [40, 60], "counts": [2500, -100]}}, 'RLE whose "counts" do not add up'),
        ({"segmentation": {"counts": [2400]}}, 'RLE without "size"'),
        ({"iscrowd": "0"}, '"iscrowd" that is neither 0 nor 1'),
        ({"area": "400"}, '"area" that is no number'),
        ({"area": float("nan")}, '"area" that is no number'),
        ({"ignore": 1}, '"ignore", which Detectron2 does not know'),
    ],
)
def test_mistakes_of_an_annotation_name_it(changes, message):
    errors = check_coco(_coco(**changes), train=True, masks=True).errors
    assert all(error.endswith("annotation 2 of image 1 (1.jpg)") for error in errors)
    assert re.search(message, errors[-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": "1"}, '"image_id" of another type than the images\' "id".*annotation 2 with \'1\''),
        ({"category_id": 8}, r'"category_id" that is no "id" of "categories": annotation 2 with 8'),
        ({"category_id": "7"}, r"text and number are different\): annotation 2 with '7'"),
        ({"id": 1}, r'annotations with the same "id": annotation 1 with 1'),
        ({"id": None}, r'annotations without "id": number 1 of the list'),
        ({"image_id": None}, r'annotations without "image_id": number 1 of the list'),
    ],
)
def test_mistaken_ids(changes, message):
    (error,) = check_coco(_coco(**changes), train=True, masks=True).errors
    assert re.search(message, error)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"iscrowd": None}, '1 annotations have no "iscrowd", taken as 0'),
        ({"area": None}, '1 annotations have no "area", which is measured'),
        ({"bbox": None}, '1 annotations have no "bbox", which is made from their mask'),
        ({"bbox": [5, 5, 0, 10]}, "1 boxes without width or height are left out of training"),
        ({"bbox": [70, 5, 10, 10]}, "1 boxes outside of their image are left out of training"),
        ({"bbox": [50, 5, 20, 10]}, "1 boxes reach out of their image and are cut off at its edge"),
        ({"image_id": 5}, '1 annotations belong to no image (by "image_id") and are left out'),
        ({"segmentation": [*POLYGON, [1, 2, 3, 4]]}, "1 polygons of fewer than 3 points, beside others, are left out"),
    ],
)
def test_what_is_mended_is_counted(changes, note):
    findings = check_coco(_coco(**changes), train=True, masks=True)
    assert findings.errors == [] and note in findings.notes


@pytest.mark.parametrize(("number", "mistakes"), [(2, 0), (3, 1)])
def test_boxes_of_which_most_reach_out_are_a_mistake(number, mistakes):
    coco = _coco()
    for annotation in coco["annotations"][:number]:
        annotation["bbox"] = [50, 5, 20, 10]
    errors = check_coco(coco, train=True, masks=True).errors
    assert len(errors) == mistakes and all("most boxes reach out of their images" in error for error in errors)


def test_boxes_given_by_two_corners_are_one_mistake():
    """Also where they reach out of their images if taken for corner and size."""
    coco = _coco()
    for annotation in coco["annotations"]:
        annotation["segmentation"] = [[40, 20, 55, 20, 55, 35, 40, 35]]
        annotation["bbox"] = [40, 20, 55, 35]
    (error,) = check_coco(coco, train=True, masks=True).errors
    assert '"bbox" that seems to be x1, y1, x2, y2' in error


def test_the_whole_file():
    def errors(train: bool = True, **parts) -> list[str]:
        coco = {key: value for key, value in (_coco() | parts).items() if value is not None}
        return check_coco(coco, train=train, masks=True).errors

    assert errors(annotations=None) == ['"annotations" is missing or no list of objects']
    assert errors(annotations=None, train=False) == []
    assert errors(annotations=[]) == ['"annotations" is empty'] and errors(annotations=[], train=False) == []
    assert errors(images=[]) == ['"images" is empty']
    assert errors(images=["1.jpg"]) == ['"images" is missing or no list of objects']
    assert errors(categories=None) == ['"categories" is missing or no list of objects']
    same = [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]
    assert errors(categories=same) == [f'categories with the same "id": {same[1]}']
    images = _coco()["images"]
    assert errors(images=[*images, images[0]]) == ['images with the same "id": image 1 (1.jpg)']
    assert errors(images=[images[0] | {"height": None}, *images[1:]]) == [
        'images whose "height" is missing or not a positive number: image 1 (1.jpg)'
    ]
    crowds = [a | {"iscrowd": 1} for a in _coco()["annotations"]]
    assert errors(annotations=crowds) == ['all 4 annotations have "iscrowd" 1, so there is no object to learn']
    texts = [a | {"image_id": 10 * a["image_id"]} for a in _coco()["annotations"]]
    assert errors(annotations=texts)[0].startswith('no annotation has an "image_id" that is the "id" of an image')
    corners = [a | {"bbox": [10, 5, 30, 25]} for a in _coco()["annotations"]]
    assert errors(annotations=corners)[0].startswith('"bbox" that seems to be x1, y1, x2, y2')
    unmasked = [{key: a[key] for key in a if key != "segmentation"} for a in _coco()["annotations"]]
    assert errors(annotations=unmasked)[0].startswith("none of the annotations has a mask")
    assert check_coco(_coco() | {"annotations": unmasked}, train=True, masks=False).errors == []


def test_only_some_of_many_places_are_named():
    annotations = [_coco(bbox=[])["annotations"][1] | {"id": i} for i in range(10)]
    (error,) = check_coco(_coco() | {"annotations": annotations}, train=True, masks=True).errors
    assert error.count("annotation ") == 4 and error.endswith("and 6 more")


def test_compressed_counts_are_read_as_pycocotools_writes_them():
    rng = np.random.default_rng(0)
    masks = [(rng.random(rng.integers(1, 200, 2)) < share).astype(np.uint8) for share in rng.random(60) ** 3]
    strings = [mask_util.encode(np.asfortranarray(mask))["counts"] for mask in masks]
    assert compressed_areas(strings).tolist() == [mask.size for mask in masks]
    broken = [b"", b"no RLE!", b"o" * 30 + b"0", strings[0] + b"P"]
    assert compressed_areas([*broken, strings[1]]).tolist() == [-1, -1, -1, -1, masks[1].size]
