"""From a dataset's record of one image to what the models take."""

import copy
import warnings

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from pentamask.data.augmentation import build_augmentation
from pentamask.data.basis_sem import load_basis_sem
from pentamask.data.panoptic import (
    PanopticLabels,
    Segment,
    segments_from_annotations,
    segments_from_png,
    segments_to_instances,
)
from pentamask.data.pictures import read_label_map, read_picture, read_record_picture
from pentamask.data.ssd_augmentation import build_ssd_augmentation, follow_ssd_augmentation

_IGNORE_LABEL = 255  # Detectron2's label of pixels without a semantic class


class MaskDatasetMapper(DatasetMapper):
    """Detectron2's DatasetMapper with what the five plugins need besides.

    - Augmentations may look at the boxes (`InstanceCrop`).
    - "basis_sem": the (H, W) int64 target of BlendMask's basis module, 0 background, c + 1 thing class c.
    - For Panoptic SegFormer, "instances" of things and stuff alike.
    - For YOLACT, the augmentation of SSD and "crowd_boxes" (any, 4), XYXY in pixels of "image".
    - Pictures of every kind are read as `read_picture` says, label maps as they are stored.
    - Errors name the image file.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        basis_sem_ann_set: str | None = None,
        panoptic_labels: PanopticLabels | None = None,
        ssd_augmentation: bool = False,
        **detectron2_options: object,
    ):
        """
        Args:
            is_train: whether to map for training; else only the image is prepared.
            basis_sem_ann_set: MODEL.BASIS_MODULE.ANN_SET to add "basis_sem" in training; None leaves it out.
            panoptic_labels: the dataset's numbering of classes, to make "instances" from its panoptic segments.
            ssd_augmentation: `augmentations` are those of `build_ssd_augmentation`.
            detectron2_options: the keyword arguments of Detectron2's DatasetMapper.
        """
        super().__init__(is_train, **detectron2_options)
        self.basis_sem_ann_set = basis_sem_ann_set
        self.panoptic_labels = panoptic_labels
        self.ssd_augmentation = ssd_augmentation

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        options = super().from_config(cfg, is_train)
        options["ssd_augmentation"] = is_train and cfg.INPUT.SSD_AUGMENTATION
        options["augmentations"] = (
            build_ssd_augmentation(cfg.MODEL.YOLACT.IMAGE_SIZE, cfg.INPUT.FORMAT)
            if options["ssd_augmentation"]
            else build_augmentation(cfg, is_train)
        )
        if is_train and cfg.MODEL.META_ARCHITECTURE == "BlendMask" and cfg.MODEL.BASIS_MODULE.LOSS_ON:
            options["basis_sem_ann_set"] = cfg.MODEL.BASIS_MODULE.ANN_SET
        if is_train and cfg.MODEL.META_ARCHITECTURE == "PanopticSegFormer":
            options["panoptic_labels"] = PanopticLabels.of_dataset(cfg.DATASETS.TRAIN[0])
        return options

    def __call__(self, dataset_dict: dict) -> dict | None:
        """
        Args:
            dataset_dict: one image in Detectron2's dataset format.

        Returns:
            `dataset_dict` with "image" (C, H, W) and, as far as there are annotations in training, "instances",
            "sem_seg" (H, W) int64 and "basis_sem" (H, W) int64, all after the same augmentation. None, whereupon
            Detectron2 takes another image, if the augmentation of SSD leaves no object.

        Raises:
            OSError: the image or label file is missing or corrupt.
            ValueError: sizes disagree, or RLE masks meet INPUT.MASK_FORMAT "polygon".
        """
        dataset_dict = copy.deepcopy(dataset_dict)
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
        if self.basis_sem_ann_set is not None:
            basis_sem = transforms.apply_segmentation(load_basis_sem(dataset_dict, self.basis_sem_ann_set))
            dataset_dict["basis_sem"] = torch.as_tensor(basis_sem.astype("int64"))
        if self.panoptic_labels is not None:
            segments = self._read_segments(dataset_dict, sem_seg)
            dataset_dict["instances"] = segments_to_instances(segments, transforms, image_size)
        elif "annotations" in dataset_dict:
            if self.ssd_augmentation:
                follow_ssd_augmentation(dataset_dict, transforms, image_size)
            self._transform_annotations(dataset_dict, transforms, image_size)
            if self.ssd_augmentation and len(dataset_dict["instances"]) == 0:
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

    def _read_segments(self, dataset_dict: dict, sem_seg: np.ndarray | None) -> list[Segment]:
        """Things and stuff, from the file of panoptic segments or from annotations and semantic labels (H, W)."""
        size = dataset_dict["height"], dataset_dict["width"]
        if "pan_seg_file_name" in dataset_dict:
            png = read_picture(dataset_dict["pan_seg_file_name"], "RGB")
            if png.shape[:2] != size:
                raise ValueError(
                    f"{dataset_dict['pan_seg_file_name']} has {png.shape[:2]} pixels, its image "
                    f"{dataset_dict['file_name']} has {size}."
                )
            return segments_from_png(png, dataset_dict["segments_info"], self.panoptic_labels)
        if "annotations" not in dataset_dict:
            raise ValueError(
                f"The record of {dataset_dict['file_name']} has neither panoptic segments nor annotations: "
                "DATASETS.TRAIN must name a panoptic dataset."
            )
        return segments_from_annotations(dataset_dict["annotations"], sem_seg, size, self.panoptic_labels)

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
