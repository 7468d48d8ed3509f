"""Training augmentation: crop around an instance, rotate, resize, flip."""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from pentamask.common import check_choice

_MAX_GROWTH_ROUNDS = 100


class InstanceCrop(T.RandomCrop):
    """Crops a random rectangle that contains the centre of one instance's box, picked uniformly.

    As in AdelaiDet's released code; an image without boxes is cropped anywhere.
    """

    def __init__(self, crop_type: str, crop_size: Sequence[float], crop_instance: bool = True):
        """
        Args:
            crop_type, crop_size: as for Detectron2's RandomCrop (INPUT.CROP.TYPE, INPUT.CROP.SIZE).
            crop_instance: whether instances may be cut; if not, the crop grows until it cuts none.
        """
        super().__init__(crop_type, crop_size)
        self._init(locals())

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> T.Transform:
        """The crop of an image (H, W, ...) with boxes (M, 4), xyxy in pixels; M may be 0."""
        if boxes is None or len(boxes) == 0:
            return super().get_transform(image)
        height, width = image.shape[:2]
        boxes = np.clip(boxes, 0, (width, height, width, height))
        instance = {"bbox": boxes[np.random.randint(len(boxes))], "bbox_mode": BoxMode.XYXY_ABS}
        crop_size = self.get_crop_size((height, width))
        crop = detection_utils.gen_crop_transform_with_instance(crop_size, (height, width), instance)
        if self.crop_instance:
            return crop
        x1, y1, x2, y2 = _grow_to_whole_boxes((crop.x0, crop.y0, crop.x0 + crop.w, crop.y0 + crop.h), boxes)
        return T.CropTransform(x1, y1, x2 - x1, y2 - y1)


def _grow_to_whole_boxes(crop: tuple[int, int, int, int], boxes: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest rectangle around `crop` whose edge cuts none of the `boxes` (M, 4); all xyxy in pixels."""
    x1, y1, x2, y2 = crop
    for _ in range(_MAX_GROWTH_ROUNDS):
        overlaps = (boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)
        touched = np.concatenate([boxes[overlaps], [(x1, y1, x2, y2)]])
        low = np.floor(touched[:, :2].min(axis=0)).astype(int)
        high = np.ceil(touched[:, 2:].max(axis=0)).astype(int)
        if (*low, *high) == (x1, y1, x2, y2):
            break
        (x1, y1), (x2, y2) = low, high
    return int(x1), int(y1), int(x2), int(y2)


class OpenCVResizeTransform(T.ResizeTransform):
    """Resizes images as OpenCV does, bilinearly without smoothing; labels as Detectron2 does."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """(H, W, C) uint8 image -> (H', W', C); with `interp`, which labels are given, Detectron2's resize."""
        if interp is not None:
            return super().apply_image(img, interp)
        resized = cv2.resize(img, (self.new_w, self.new_h), interpolation=cv2.INTER_LINEAR)
        return resized.reshape(self.new_h, self.new_w, *img.shape[2:])


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, except that the short edge of a long strip keeps one pixel where MAX_SIZE would leave none."""

    resize_transform = T.ResizeTransform

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The resize of an image (H, W, ...)."""
        resize = super().get_transform(image)
        if not isinstance(resize, T.ResizeTransform):
            return resize
        new_size = max(resize.new_h, 1), max(resize.new_w, 1)
        return self.resize_transform(resize.h, resize.w, *new_size, resize.interp)


class OpenCVResizeShortestEdge(ResizeShortestEdge):
    """Detectron2's choice of the size, OpenCV's resize."""

    resize_transform = OpenCVResizeTransform


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Detectron2's resize and flip, preceded in training by the crop and the rotation that INPUT.* asks for."""
    augmentations = _with_resizer(detection_utils.build_augmentation(cfg, is_train), cfg.INPUT.RESIZER)
    if not is_train:
        return augmentations
    if not cfg.INPUT.HFLIP_TRAIN:
        augmentations = [a for a in augmentations if not isinstance(a, T.RandomFlip)]
    first = []
    if cfg.INPUT.CROP.ENABLED:
        crop = cfg.INPUT.CROP
        if crop.RESIZE_BEFORE:
            first.append(_resize_and_crop(crop, cfg.INPUT.RESIZER))
        else:
            first.append(InstanceCrop(crop.TYPE, crop.SIZE, crop.CROP_INSTANCE))
        if cfg.INPUT.IS_ROTATE:
            first.append(T.RandomRotation([-30, 30]))
    elif cfg.INPUT.IS_ROTATE:
        raise ValueError("INPUT.IS_ROTATE rotates crops only: set INPUT.CROP.ENABLED True too, or IS_ROTATE False.")
    return first + augmentations


def _with_resizer(augmentations: list[T.Augmentation], resizer: str) -> list[T.Augmentation]:
    check_choice("INPUT.RESIZER", resizer, ("pil", "opencv"))
    resize = ResizeShortestEdge if resizer == "pil" else OpenCVResizeShortestEdge
    return [
        resize(a.short_edge_length, a.max_size, a.sample_style) if isinstance(a, T.ResizeShortestEdge) else a
        for a in augmentations
    ]


def _resize_and_crop(crop: CfgNode, resizer: str) -> T.Augmentation:
    """With probability 0.5, resize to one of the short sides RESIZE_BEFORE and crop anywhere (DETR, appendix A.4)."""
    resize = T.ResizeShortestEdge(crop.RESIZE_BEFORE, max_size=4200, sample_style="choice")
    steps = [*_with_resizer([resize], resizer), T.RandomCrop(crop.TYPE, crop.SIZE)]
    return T.RandomApply(T.AugmentationList(steps), prob=0.5)
