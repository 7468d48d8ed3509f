"""Datasets that cannot be trained on, each with one readable error."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from pentamask.engine.checks import BadInput, check_class_counts, check_class_names, check_dataset_files
from pentamask.engine.load_config import load_config
from pentamask.engine.trainer import Trainer

ANNOTATION = {
    "id": 1,
    "image_id": 1,
    "category_id": 1,
    "iscrowd": 0,
    "area": 100,
    "bbox": [2, 2, 10, 10],
    "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]],
}


@pytest.fixture
def dataset(tmp_path):
    """A function that registers a one-image COCO file with changes as "user_data"; returns a config to train on it."""

    def register(**changes):
        content = {
            "images": [{"id": 1, "file_name": "1.jpg", "height": 20, "width": 20}],
            "annotations": [ANNOTATION],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate("abcdef")],
        }
        (tmp_path / "images").mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / "images" / "1.jpg")
        path = tmp_path / "user.json"
        path.write_text(json.dumps(content | changes))
        register_coco_instances("user_data", {}, str(path), str(tmp_path / "images"))
        options = ["DATASETS.TRAIN", "('user_data',)", "INPUT.MASK_FORMAT", "polygon", "DATALOADER.NUM_WORKERS", "0"]
        return load_config("configs/shapes/BlendMask_R_50_thin.yaml", options)

    yield register
    DatasetCatalog.remove("user_data")
    MetadataCatalog.remove("user_data")


def test_the_users_own_data_trains(dataset):
    batch = next(iter(Trainer.build_train_loader(dataset())))
    assert batch[0]["instances"].gt_classes.tolist() == [0] and batch[0]["basis_sem"].max() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [ANNOTATION | {"category_id": 9}]}, r"(?s)user.json.*category_id.*annotation 1 with 9"),
        ({"annotations": []}, r'(?s)user.json.*"annotations" is empty'),
        ({"images": [], "annotations": []}, r"user_data.*user.json"),
        (
            {"categories": [{"id": 1, "name": "a"}]},
            r"1 thing_classes, but MODEL.FCOS.NUM_CLASSES is 6\. Set MODEL.FCOS.NUM_CLASSES 1\.",
        ),
    ],
)
def test_bad_annotations_are_explained(dataset, changes, message):
    with pytest.raises(BadInput, match=message):
        Trainer.build_train_loader(dataset(**changes))


def test_a_file_cut_short_and_missing_files_are_named(dataset, tmp_path):
    cfg = dataset()
    (tmp_path / "user.json").write_text('{"images": [')
    with pytest.raises(BadInput, match=r"user.json: the file is not JSON or cut short"):
        Trainer.build_train_loader(cfg)
    (tmp_path / "user.json").unlink()
    with pytest.raises(BadInput, match=r"user.json does not exist.*DETECTRON2_DATASETS"):
        Trainer.build_train_loader(cfg)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=r"image_root .*images does not exist"):
        check_dataset_files(["user_data"])


def test_class_count_of_mask_rcnn(shapes):
    cfg = load_config("configs/shapes/MaskRCNN_R_50_thin.yaml", ["MODEL.ROI_HEADS.NUM_CLASSES", "80"])
    with pytest.raises(BadInput, match=r"6 thing_classes, but MODEL.ROI_HEADS.NUM_CLASSES is 80"):
        Trainer.build_train_loader(cfg)


def test_class_counts_of_the_panoptic_forms(shapes):
    options = ["MODEL.PANOPTIC_FPN.COMBINE.ENABLED", "True", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"]
    cfg = load_config("configs/shapes/BlendMask_R_50_thin.yaml", options)
    check_class_counts(cfg, ["shapes_val_panoptic_separated"])
    with pytest.raises(BadInput, match=r"register_coco_panoptic_separated and use 'shapes_val_panoptic_separated'"):
        check_class_counts(cfg, ["shapes_val_panoptic"])
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 54
    with pytest.raises(BadInput, match=r"4 stuff_classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 54"):
        check_class_counts(cfg, ["shapes_val_panoptic_separated"])


def _named(name: str, path, categories: dict[int, str]) -> str:
    contents = {"images": [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}], "annotations": []}
    contents["categories"] = [{"id": i, "name": category} for i, category in categories.items()]
    Image.new("L", (9, 9)).save(path / "a.jpg")
    (path / f"{name}.json").write_text(json.dumps(contents))
    register_coco_instances(name, {}, str(path / f"{name}.json"), str(path))
    return name


def test_class_names_of_the_test_set(tmp_path):
    train = _named("names_train", tmp_path, {1: "cat", 2: "dog"})
    same = _named("names_same", tmp_path, {10: "cat", 20: "dog"})
    others = {
        "names_swapped": ({1: "dog", 2: "cat"}, "another order, so that 'dog' would be evaluated as 'cat'"),
        "names_fewer": (
            {2: "dog"},
            "lacks cat. Give both the same names under the same ids; a class needs no annotation",
        ),
        "names_more": ({1: "cat", 2: "dog", 3: "cow"}, "it also has cow"),
        "names_other": ({1: "cat", 2: "hound"}, "lacks dog and has hound, which that one lacks"),
    }
    try:
        DatasetCatalog.get(train)
        check_class_names([train], [same], masks=True)
        for name, (categories, message) in others.items():
            with pytest.raises(BadInput, match=message):
                check_class_names([train], [same, _named(name, tmp_path, categories)], masks=True)
    finally:
        for name in {train, same, *others} & set(DatasetCatalog):
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name)


def test_rle_masks_that_polygons_cannot_hold_are_found_before_training(shapes):
    options = ["INPUT.MASK_FORMAT", "polygon", "DATALOADER.NUM_WORKERS", "0"]
    cfg = load_config("configs/shapes/BlendMask_R_50_thin.yaml", options)
    with pytest.raises(BadInput, match=r"masks that are RLE, which INPUT.MASK_FORMAT 'polygon' cannot hold"):
        Trainer.build_train_loader(cfg)
    assert len(Trainer.build_test_loader(cfg, "shapes_val")) == 6  # a test set may have either
