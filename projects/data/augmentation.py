"""Training augmentation: crop around an instance, rotate, resize, flip (blendmask.md section 9)."""

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

_MAX_GROWTH_ROUNDS = 100


class InstanceCrop(T.RandomCrop):
    """Crops a random rectangle that contains the centre of one instance's box, picked uniformly.

    As in the released code of BlendMask; an image without boxes is cropped anywhere.
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


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Detectron2's resize and flip, preceded in training by the crop and the rotation that INPUT.* asks for."""
    augmentations = detection_utils.build_augmentation(cfg, is_train)
    if not is_train:
        return augmentations
    if not cfg.INPUT.HFLIP_TRAIN:
        augmentations = [a for a in augmentations if not isinstance(a, T.RandomFlip)]
    first = []
    if cfg.INPUT.CROP.ENABLED:
        crop = cfg.INPUT.CROP
        first.append(InstanceCrop(crop.TYPE, crop.SIZE, crop.CROP_INSTANCE))
        if cfg.INPUT.IS_ROTATE:
            first.append(T.RandomRotation([-30, 30]))
    elif cfg.INPUT.IS_ROTATE:
        raise ValueError("INPUT.IS_ROTATE rotates crops only: set INPUT.CROP.ENABLED True too, or IS_ROTATE False.")
    return first + augmentations
