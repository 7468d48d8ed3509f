"""The ground truth given as the prediction has AP and PQ 100, whatever the form of the dataset."""

import json
import math
import shutil

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_coco_panoptic
from detectron2.structures import Boxes, Instances
from PIL import Image

import pentamask  # noqa: F401
from pentamask.data.panoptic import PanopticLabels, segments_from_png
from pentamask.data.pictures import read_picture
from pentamask.evaluation import build_evaluator
from pentamask.evaluation.panoptic import quality_by_class

HEIGHT, WIDTH = 40, 60
THINGS, STUFF = {3: "cat", 7: "dog"}, {5: "sky", 9: "sea"}
BOXES = {3: (5, 5, 20, 10), 7: (30, 15, 20, 20)}  # xywh of the one object of each kind


@pytest.fixture
def registered():
    """Forgets the datasets that a test registers."""
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)


def _mask(box: tuple) -> np.ndarray:
    x, y, w, h = box
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def _write_instances(path, removed=(), rle: bool = False) -> str:
    annotations = []
    for i, (category, (x, y, w, h)) in enumerate(BOXES.items()):
        segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if rle:
            segmentation = mask_util.encode(np.asfortranarray(_mask((x, y, w, h))))
            segmentation["counts"] = segmentation["counts"].decode()
        annotation = {"id": i + 1, "image_id": 1, "category_id": category, "bbox": [x, y, w, h], "area": w * h}
        annotation |= {"iscrowd": 0, "segmentation": segmentation}
        annotations.append({key: value for key, value in annotation.items() if key not in removed})
    image = {"id": 1, "file_name": "1.jpg", "height": HEIGHT, "width": WIDTH}
    categories = [{"id": i, "name": name} for i, name in THINGS.items()]
    path.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": categories}))
    return str(path)


def _perfect_instances(labels: dict[int, int]) -> Instances:
    """The objects, with the label of each category."""
    masks = torch.stack([torch.from_numpy(_mask(box)).bool() for box in BOXES.values()])
    xyxy = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in BOXES.values()], dtype=torch.float32)
    instances = Instances((HEIGHT, WIDTH), pred_masks=masks, pred_boxes=Boxes(xyxy), scores=torch.tensor([0.9, 0.8]))
    instances.pred_classes = torch.tensor([labels[category] for category in BOXES])
    return instances


def _evaluate(name: str, folder, output: dict) -> dict:
    (record,) = DatasetCatalog.get(name)
    evaluator = build_evaluator(name, str(folder / "out"))
    evaluator.reset()
    evaluator.process([record], [output])
    return evaluator.evaluate()


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize("removed", [(), ("iscrowd",), ("area",), ("bbox",), ("iscrowd", "area", "bbox")])
def test_instances(tmp_path, registered, rle, removed):
    register_coco_instances("perfect", {}, _write_instances(tmp_path / "instances.json", removed, rle), str(tmp_path))
    results = _evaluate("perfect", tmp_path, {"instances": _perfect_instances({3: 0, 7: 1})})
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)


def test_a_dataset_that_a_function_registered(tmp_path, registered):
    path = _write_instances(tmp_path / "instances.json")
    register_coco_instances("source", {}, path, str(tmp_path))
    records = [{**record, "annotations": record["annotations"]} for record in DatasetCatalog.get("source")]
    DatasetCatalog.register("perfect", lambda: records)
    MetadataCatalog.get("perfect").thing_classes = ["cat", "dog"]
    output = {"instances": _perfect_instances({3: 0, 7: 1})}
    for folder in ("one", "other"):  # the file that the first conversion made has gone
        results = _evaluate("perfect", tmp_path / folder, output)
        assert results["bbox"]["AP"] == results["segm"]["AP-dog"] == pytest.approx(100)
        shutil.rmtree(tmp_path / folder)


def test_150_objects_in_a_picture(tmp_path, registered):
    """COCO's own evaluation would count the first 100."""
    boxes = [(3 * (i % 15), 3 * (i // 15), 2, 2) for i in range(150)]
    annotation = {"image_id": 1, "category_id": 3, "area": 4, "iscrowd": 0}
    annotations = [{**annotation, "id": i + 1, "bbox": box} for i, box in enumerate(boxes)]
    image = {"id": 1, "file_name": "1.jpg", "height": HEIGHT, "width": WIDTH}
    contents = {"images": [image], "annotations": annotations, "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / "dense.json").write_text(json.dumps(contents))
    register_coco_instances("perfect", {}, str(tmp_path / "dense.json"), str(tmp_path))
    xyxy = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=torch.float32)
    found = Instances((HEIGHT, WIDTH), pred_boxes=Boxes(xyxy), scores=torch.linspace(0.9, 0.5, 150))
    found.pred_classes = torch.zeros(150, dtype=torch.int64)
    assert _evaluate("perfect", tmp_path, {"instances": found})["bbox"]["AP"] == pytest.approx(100)


def _register_panoptic(folder, labels: dict[int, int], *, instances: bool, removed=()) -> dict:
    """Register "perfect" with the given contiguous ids of the categories, which are all that occur."""
    ids, segments = np.zeros((HEIGHT, WIDTH, 3), np.uint8), []
    areas = {5: np.s_[:20], 9: np.s_[20:]}
    for category in sorted(labels, key=lambda i: i in THINGS):  # objects lie on the stuff
        place = areas[category] if category in STUFF else _mask(BOXES[category]).astype(bool)
        ids[place] = (len(segments) + 1, 1, 0)
        segments.append({"id": len(segments) + 257, "category_id": category, "iscrowd": 0})
    for segment in segments:
        segment["area"] = int((ids[..., 0] == segment["id"] - 256).sum())
    segments = [{key: value for key, value in segment.items() if key not in removed} for segment in segments]
    Image.fromarray(ids).save(folder / "1.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "1.jpg")
    categories = [{"id": i, "name": (THINGS | STUFF)[i], "isthing": int(i in THINGS)} for i in labels]
    image = {"id": 1, "file_name": "1.jpg", "height": HEIGHT, "width": WIDTH}
    annotation = {"image_id": 1, "file_name": "1.png", "segments_info": segments}
    contents = {"images": [image], "annotations": [annotation], "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(contents))
    names = [(THINGS | STUFF)[i] for i, _ in sorted(labels.items(), key=lambda item: item[1])]
    metadata = {"thing_classes": names, "stuff_classes": names}
    metadata["thing_dataset_id_to_contiguous_id"] = {i: label for i, label in labels.items() if i in THINGS}
    metadata["stuff_dataset_id_to_contiguous_id"] = {i: label for i, label in labels.items() if i in STUFF}
    json_file = _write_instances(folder / "instances.json") if instances else None
    register_coco_panoptic("perfect", metadata, str(folder), str(folder), str(folder / "panoptic.json"), json_file)
    return metadata


def _perfect_segments() -> tuple[torch.Tensor, list[dict]]:
    """As a model returns them, read the way that training reads them."""
    (record,) = DatasetCatalog.get("perfect")
    labels = PanopticLabels.of_dataset("perfect")
    segments = segments_from_png(read_picture(record["pan_seg_file_name"], "RGB"), record["segments_info"], labels)
    id_map, infos = torch.zeros(HEIGHT, WIDTH, dtype=torch.int32), []
    for i, segment in enumerate(segments, 1):
        id_map[torch.from_numpy(segment.mask) > 0] = i
        category = labels.category_ids[segment.label]
        infos.append({"id": i, "category_id": category, "isthing": segment.label < len(labels.thing_ids)})
    return id_map, infos


@pytest.mark.parametrize(
    ("labels", "things", "stuff"),
    [
        ({3: 0, 7: 1, 5: 2, 9: 3}, 100, 100),
        ({3: 0, 5: 1, 7: 2, 9: 3}, 100, 100),  # numbered in turn
        ({5: 0, 9: 1, 3: 2, 7: 3}, 100, 100),  # stuff first
        ({3: 0, 7: 1}, 100, math.nan),
        ({5: 0, 9: 1}, math.nan, 100),
    ],
)
@pytest.mark.parametrize("removed", [(), ("iscrowd", "area")])
def test_panoptic_segments(tmp_path, registered, labels, things, stuff, removed):
    has_things = 3 in labels
    _register_panoptic(tmp_path, labels, instances=has_things, removed=removed)
    output = {"panoptic_seg": _perfect_segments()}
    if has_things:
        output["instances"] = _perfect_instances(labels)
    results = _evaluate("perfect", tmp_path, output)
    assert ("bbox" in results) == has_things
    found = {key: results["panoptic_seg"][key] for key in ("PQ", "PQ_th", "PQ_st")}
    assert found == pytest.approx({"PQ": 100, "PQ_th": things, "PQ_st": stuff}, nan_ok=True)
    # What was written gives the same again, by class.
    quality = quality_by_class(str(tmp_path / "out"), MetadataCatalog.get("perfect"))
    assert quality["All"]["pq"] == 1 and 100 * quality["Things"]["pq"] == pytest.approx(things, nan_ok=True)
    assert {i: (x["pq"], x["tp"], x["fp"], x["fn"]) for i, x in quality["per_class"].items()} == dict.fromkeys(
        labels, (1, 1, 0, 0)
    )
    for task in ("bbox", "segm") if has_things else ():
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP-dog"] == pytest.approx(100)
