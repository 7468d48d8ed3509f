"""hotcoco gives pycocotools' numbers, bit by bit."""

import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.evaluation import coco_evaluation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pentamask.evaluation.fast_coco import fast_coco_eval, fast_evaluation, has_fast_evaluation

needs_hotcoco = pytest.mark.skipif(not has_fast_evaluation(), reason="hotcoco is not installed")
HEIGHT, WIDTH = 60, 80


def rectangle(rng: np.random.Generator) -> np.ndarray:
    y, x = rng.integers(0, 40), rng.integers(0, 50)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y : y + rng.integers(1, 60), x : x + rng.integers(1, 60)] = 1
    return mask


def ground_truth(rng: np.random.Generator) -> COCO:
    """Polygons, compressed and plain RLE, crowds, an image without annotations and a category without any."""
    annotations = []
    for number in range(1, 60):
        mask = rectangle(rng)
        crowd = number % 9 == 0
        if number % 3 == 0 or crowd:
            flat = mask.flatten(order="F")
            changes = np.flatnonzero(np.diff(flat)) + 1
            runs = np.diff([0, *changes, len(flat)]).tolist()
            segmentation = {"size": [HEIGHT, WIDTH], "counts": runs if flat[0] == 0 else [0, *runs]}
        else:
            x, y, w, h = mask_util.toBbox(mask_util.encode(mask)).tolist()
            segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotations.append(
            {
                "id": number,
                "image_id": int(rng.integers(1, 9)),
                "category_id": int(rng.choice([1, 4, 7])),
                "iscrowd": int(crowd),
                "segmentation": segmentation,
                "bbox": mask_util.toBbox(mask_util.encode(mask)).tolist(),
                "area": float(mask.sum()) * 20,
            }
        )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, 11)],
        "categories": [{"id": i, "name": str(i)} for i in (1, 4, 7, 8)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def predictions(coco: COCO, rng: np.random.Generator) -> list[dict]:
    """Shifted objects of right and wrong classes, with scores that tie."""
    found = []
    for annotation in list(coco.anns.values()) * 3:
        mask = np.roll(coco.annToMask(annotation), rng.integers(-4, 5, 2), (0, 1))
        rle = mask_util.encode(np.asfortranarray(mask))
        rle["counts"] = rle["counts"].decode()
        category = annotation["category_id"] if rng.random() < 0.7 else 8
        result = {"image_id": annotation["image_id"], "category_id": category, "score": float(rng.integers(9)) / 9}
        found.append({**result, "segmentation": rle, "bbox": mask_util.toBbox(rle).tolist()})
    return found


@needs_hotcoco
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("images", [None, [1, 2, 3, 10]])
def test_the_same_numbers(seed: int, task: str, images: list[int] | None) -> None:
    rng = np.random.default_rng(seed)
    coco = ground_truth(rng)
    results = predictions(coco, rng)
    official, fast = (
        coco_evaluation._evaluate_predictions_on_coco(
            copy.deepcopy(coco), copy.deepcopy(results), task, cocoeval_fn=function, img_ids=images
        )
        for function in (COCOeval, fast_coco_eval)
    )
    assert 0 < official.stats[0] < 1
    assert np.array_equal(official.stats, fast.stats)
    assert np.array_equal(official.eval["precision"], fast.eval["precision"])


@needs_hotcoco
def test_detectron2_has_its_own_class_back() -> None:
    with pytest.raises(KeyError), fast_evaluation():
        assert coco_evaluation.COCOeval is fast_coco_eval
        raise KeyError
    assert coco_evaluation.COCOeval is COCOeval
