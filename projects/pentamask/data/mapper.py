"""From a dataset's record of one image to what the models take."""

import copy
import warnings

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from pentamask.data.augmentation import build_augmentation
from pentamask.data.pictures import read_label_map, read_record_picture
from pentamask.data.targets import AugmentedImage, TargetMaker
from pentamask.plugin import declared, find_model_class

_IGNORE_LABEL = 255  # Detectron2's label of pixels without a semantic class


class MaskDatasetMapper(DatasetMapper):
    """Detectron2's DatasetMapper, plus what our models need.

    - Augmentations may look at the boxes (`InstanceCrop`).
    - The model's plugin may choose the augmentation and add ground truth of its own (see `TargetMaker`).
    - Pictures of every kind are read as `read_picture` says, label maps as they are stored.
    - Errors name the image file.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        target_maker: TargetMaker | None = None,
        **detectron2_options: object,
    ):
        """
        Args:
            is_train: whether to map for training; otherwise only the image is prepared.
            target_maker: adds the model's own ground truth in training; None adds nothing.
            detectron2_options: the keyword arguments of Detectron2's DatasetMapper.
        """
        super().__init__(is_train, **detectron2_options)
        self.target_maker = target_maker

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        options = super().from_config(cfg, is_train)
        model_class = find_model_class(cfg)
        own = declared(model_class, "build_augmentations")(cfg, is_train)
        options["augmentations"] = build_augmentation(cfg, is_train) if own is None else own
        if is_train:
            options["target_maker"] = declared(model_class, "build_target_maker")(cfg)
        return options

    def __call__(self, dataset_dict: dict) -> dict | None:
        """
        Args:
            dataset_dict: one image in Detectron2's dataset format.

        Returns:
            `dataset_dict` with "image" (C, H, W) and, if there are annotations and in training only, "instances",
            "sem_seg" (H, W) int64 and what the target maker adds, all after the same augmentation. None, whereupon
            Detectron2 takes another image, if no object is left and the target maker needs one.

        Raises:
            OSError: the image or label file is missing or corrupt.
            ValueError: sizes disagree, or RLE masks meet INPUT.MASK_FORMAT "polygon".
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        add_missing_boxes(dataset_dict)
        image = self._read_image(dataset_dict)
        sem_seg = self._read_sem_seg(dataset_dict) if self.is_train else None
        original_size = image.shape[:2]
        inputs = T.AugInput(image, boxes=_boxes(dataset_dict), sem_seg=sem_seg)
        inputs.crowd = _crowd(dataset_dict)
        transforms = self.augmentations(inputs)
        dataset_dict["image"] = torch.from_numpy(inputs.image.transpose(2, 0, 1).copy())
        if sem_seg is not None:
            # A rotation fills the corners with label 0; nothing is known there.
            known = transforms.apply_segmentation(np.ones(original_size, np.uint8)) > 0
            labels = np.where(known, inputs.sem_seg, _IGNORE_LABEL)
            dataset_dict["sem_seg"] = torch.as_tensor(labels.astype("int64"))
        image_size = inputs.image.shape[:2]
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(dataset_dict, image_size, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            dataset_dict.pop("annotations", None)
            return dataset_dict
        if self.target_maker is not None:
            self.target_maker(dataset_dict, AugmentedImage(transforms, image_size, sem_seg))
        if "annotations" in dataset_dict and "instances" not in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image_size)
            if self.target_maker is not None and self.target_maker.needs_objects and not len(dataset_dict["instances"]):
                return None
        return dataset_dict

    def _read_image(self, dataset_dict: dict) -> np.ndarray:
        """The image (H, W, C) uint8 in the annotated orientation; adds "height" and "width" if they are missing."""
        image = read_record_picture(dataset_dict, self.image_format)
        detection_utils.check_image_size(dataset_dict, image)
        return image

    def _read_sem_seg(self, dataset_dict: dict) -> np.ndarray | None:
        """The semantic labels (H, W), if the record names a file of them."""
        path = dataset_dict.get("sem_seg_file_name")
        if path is None:
            return None
        sem_seg = read_label_map(path)
        size = dataset_dict["height"], dataset_dict["width"]
        if sem_seg.shape != size:
            raise ValueError(f"{path} has {sem_seg.shape} pixels, its image {dataset_dict['file_name']} has {size}.")
        return sem_seg

    def _transform_annotations(self, dataset_dict: dict, transforms: T.TransformList, image_shape: tuple) -> None:
        has_rle = any(
            isinstance(annotation.get("segmentation"), dict) and not annotation.get("iscrowd", 0)
            for annotation in dataset_dict["annotations"]
        )
        if has_rle and self.use_instance_mask and self.instance_mask_format == "polygon":
            raise ValueError(
                f"The masks of {dataset_dict['file_name']} are RLE, which INPUT.MASK_FORMAT 'polygon' cannot hold: "
                "set INPUT.MASK_FORMAT bitmask (LazyConfig: the mapper's instance_mask_format)."
            )
        with warnings.catch_warnings():
            # Resized masks are read-only arrays of PIL, which nobody writes to.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            super()._transform_annotations(dataset_dict, transforms, image_shape)


def add_missing_boxes(dataset_dict: dict) -> None:
    """Give annotations with a mask and without a box the extent of their mask, in place."""
    for annotation in dataset_dict.get("annotations", ()):
        if "bbox" not in annotation and annotation.get("segmentation"):
            masks = annotation["segmentation"]
            if isinstance(masks, dict):
                annotation.update(bbox=mask_util.toBbox(masks).tolist(), bbox_mode=BoxMode.XYWH_ABS)
            else:
                points = np.concatenate(masks).reshape(-1, 2)
                annotation.update(bbox=[*points.min(axis=0), *points.max(axis=0)], bbox_mode=BoxMode.XYXY_ABS)


def _boxes(dataset_dict: dict) -> np.ndarray:
    """All annotated boxes (M, 4), xyxy in pixels, crowds included."""
    boxes = [
        BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        for annotation in dataset_dict.get("annotations", [])
    ]
    return np.array(boxes, dtype=float).reshape(-1, 4)


def _crowd(dataset_dict: dict) -> np.ndarray:
    """(M,) bool, which of the annotations are crowds."""
    return np.array([a.get("iscrowd", 0) for a in dataset_dict.get("annotations", [])], dtype=bool)
