"""The semantic target of BlendMask's basis module: which thing class covers each pixel."""

import os

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import polygons_to_bitmask
from detectron2.utils.file_io import PathManager

from pentamask.data.targets import AugmentedImage, TargetMaker

# Folder names of the images and of the files that AdelaiDet's preparation scripts write, by ANN_SET.
_PREPARED_FOLDERS = {"coco": (("train2017", "thing_train2017"), ("image/train", "thing_train"))}
_PREPARED_FOLDERS_ELSE = (("coco", "lvis"), ("train2017", "thing_train"))


class BasisSemMaker(TargetMaker):
    """Adds "basis_sem", (H', W') int64 of the augmented image: 0 background, c + 1 thing class c."""

    def __init__(self, ann_set: str) -> None:
        """Args: ann_set: see `load_basis_sem`."""
        self.ann_set = ann_set

    def __call__(self, record: dict, augmented: AugmentedImage) -> None:
        """See `TargetMaker`."""
        basis_sem = augmented.transforms.apply_segmentation(load_basis_sem(record, self.ann_set))
        record["basis_sem"] = torch.as_tensor(basis_sem.astype("int64"))


def load_basis_sem(dataset_dict: dict, ann_set: str) -> np.ndarray:
    """The map from its prepared file if there is one, else from the annotations.

    Args:
        dataset_dict: Detectron2's record of one image, with "file_name", "height", "width", "annotations".
        ann_set: MODEL.BASIS_MODULE.ANN_SET, which decides where a prepared file would lie.

    Returns:
        (H, W) uint8, or float32 if there are more than 255 classes: 0 background, c + 1 thing class c.
    """
    path = prepared_file(dataset_dict["file_name"], ann_set)
    if path is not None and PathManager.isfile(path):
        with PathManager.open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["mask"]
    return draw_basis_sem(dataset_dict.get("annotations", []), dataset_dict["height"], dataset_dict["width"])


def prepared_file(image_file: str, ann_set: str) -> str | None:
    """Where AdelaiDet's preparation puts the map of an image; None for images outside the folders it knows."""
    path = image_file
    for images, maps in _PREPARED_FOLDERS.get(ann_set, _PREPARED_FOLDERS_ELSE):
        path = path.replace(images, maps)
    return None if path == image_file else os.path.splitext(path)[0] + ".npz"


def draw_basis_sem(annotations: list[dict], height: int, width: int) -> np.ndarray:
    """Draw all instances, crowds too, in file order: later ones cover earlier ones, as AdelaiDet prepares it.

    Args:
        annotations: Detectron2's instance annotations with polygons or RLE and contiguous "category_id".
        height, width: size of the image in pixels.

    Returns:
        As `load_basis_sem`.
    """
    num_labels = 1 + max((annotation["category_id"] + 1 for annotation in annotations), default=0)
    # Detectron2's transforms take uint8 or floats.
    basis_sem = np.zeros((height, width), np.uint8 if num_labels <= 256 else np.float32)
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if segmentation is None:
            continue
        if isinstance(segmentation, dict):
            mask = mask_util.decode(segmentation).astype(bool)
        else:
            mask = polygons_to_bitmask(segmentation, height, width)
        basis_sem[mask] = annotation["category_id"] + 1
    return basis_sem
