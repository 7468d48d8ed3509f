"""Datasets of the authors' recipes that Detectron2 does not register."""

import os

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances


def register_person_in_context() -> None:
    """Register `pic_person_train` and `pic_person_val` (Person In Context) below $DETECTRON2_DATASETS.

    Names that another package has registered already are left to it.
    """
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    for split in ("train", "val"):
        name = f"pic_person_{split}"
        if name not in DatasetCatalog:
            json_file = os.path.join(root, f"pic/annotations/{split}_person.json")
            register_coco_instances(name, {}, json_file, os.path.join(root, f"pic/image/{split}"))
