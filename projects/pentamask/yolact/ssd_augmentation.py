"""The training augmentation of SSD (arXiv 1512.02325, section 2.2), as YOLACT uses it.

Images stay in floating point and are not clipped to 0..255.
"""

import random

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.structures import BoxMode

from pentamask.common import check_choice
from pentamask.data.augmentation import OpenCVResizeTransform
from pentamask.data.targets import AugmentedImage, TargetMaker

_MEAN_RGB = (123.68, 116.78, 103.94)
_MEANS = {"RGB": _MEAN_RGB, "BGR": _MEAN_RGB[::-1], "L": (117.38,)}  # the grey of ITU-R 601
_MAX_EXPANSION = 4.0
_MIN_CROP_SHARE = 0.3
_CROP_OPTIONS, _CROP_TRIES = 6, 50


class PhotometricTransform(ColorAugSSDTransform):
    """PointRend's colour distortion without its rounding: brightness, contrast, saturation and hue in float32."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """(H, W, 3) image in 0..255 -> (H, W, 3) float32, possibly outside that range."""
        return super().apply_image(img.astype(np.float32))

    def convert(self, img: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
        """`img` * alpha + beta, neither clipped nor rounded."""
        return img * np.float32(alpha) + np.float32(beta)

    def saturation(self, img: np.ndarray) -> np.ndarray:
        """With probability 0.5 scale the saturation of a BGR image; grey ones have none."""
        return super().saturation(img) if img.shape[2] > 1 else img

    def hue(self, img: np.ndarray) -> np.ndarray:
        """With probability 0.5 turn the hue of a BGR image by up to `hue_delta` degrees (OpenCV's float HSV)."""
        if img.shape[2] > 1 and random.randrange(2):
            img = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
            img[..., 0] = (img[..., 0] + random.uniform(-self.hue_delta, self.hue_delta)) % 360
            img = cv2.cvtColor(img, cv2.COLOR_HSV2BGR)
        return img


class MeanPadTransform(T.PadTransform):
    """Pads images with one colour, masks with 0."""

    def __init__(self, *sizes: int, color: tuple[float, ...]) -> None:
        """
        Args:
            sizes: left, top, right and bottom margin, width and height of the image.
            color: of the margin, (C,) in the image's channel order.
        """
        super().__init__(*sizes)
        self.color = color

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W, C) -> (H', W', C)."""
        height, width, channels = img.shape
        canvas = np.empty((height + self.y0 + self.y1, width + self.x0 + self.x1, channels), img.dtype)
        canvas[:] = self.color
        canvas[self.y0 : self.y0 + height, self.x0 : self.x0 + width] = img
        return canvas


class RandomExpand(T.Augmentation):
    """With probability 0.5 puts the image somewhere on a canvas of up to four times its sides."""

    def __init__(self, color: tuple[float, ...]) -> None:
        """Args: color: of the canvas."""
        super().__init__()
        self.color = color

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The padding of an image (H, W, 3)."""
        if np.random.randint(2):
            return T.NoOpTransform()
        height, width = image.shape[:2]
        ratio = np.random.uniform(1, _MAX_EXPANSION)
        left, top = int(np.random.uniform(0, width * (ratio - 1))), int(np.random.uniform(0, height * (ratio - 1)))
        right, bottom = int(width * ratio) - width - left, int(height * ratio) - height - top
        return MeanPadTransform(left, top, right, bottom, width, height, color=self.color)


class SSDRandomCrop(T.Augmentation):
    """Crops to 0.3 to 1 times each side, keeping the centre of some object inside; one time in six does nothing.

    SSD also requires a minimum IoU of crop and objects. In the code that YOLACT was trained with, this condition
    rejects nothing, and the authors found that enforcing it made results worse.
    """

    def get_transform(self, image: np.ndarray, boxes: np.ndarray, crowd: np.ndarray) -> T.Transform:
        """
        Args:
            image: (H, W, 3).
            boxes: (M, 4) xyxy in pixels.
            crowd: (M,) bool, objects that cannot justify a crop.
        """
        height, width = image.shape[:2]
        centers = ((boxes[:, :2] + boxes[:, 2:]) / 2)[~crowd]
        while np.random.randint(_CROP_OPTIONS):
            for _ in range(_CROP_TRIES):
                w, h = np.random.uniform(_MIN_CROP_SHARE, 1) * width, np.random.uniform(_MIN_CROP_SHARE, 1) * height
                left, top = np.random.uniform(0, width - w), np.random.uniform(0, height - h)
                low = np.array([int(left), int(top)])
                high = np.array([int(left + w), int(top + h)])
                if 0.5 <= h / w <= 2 and ((centers > low) & (centers < high)).all(axis=1).any():
                    return T.CropTransform(*low, *(high - low))
        return T.NoOpTransform()


class StretchTransform(OpenCVResizeTransform):
    """Resizes images and masks bilinearly with OpenCV; masks are rounded."""

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """(H, W) uint8 -> (H', W') uint8."""
        return cv2.resize(segmentation, (self.new_w, self.new_h), interpolation=cv2.INTER_LINEAR)


class Stretch(T.Augmentation):
    """Stretches images to a square."""

    def __init__(self, side: int) -> None:
        """Args: side: of the square, in pixels."""
        super().__init__()
        self.side = side

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The resize of an image (H, W, 3)."""
        return StretchTransform(*image.shape[:2], self.side, self.side)


def build_ssd_augmentation(image_size: int, image_format: str) -> list[T.Augmentation | T.Transform]:
    """Colours, expansion, crop, flip, stretch; the crop looks at boxes, and at which of them are crowds.

    Args:
        image_size: side of the resulting square, in pixels.
        image_format: the channels, "RGB", "BGR" or "L", grey.

    Raises:
        ValueError: other channels.
    """
    check_choice("INPUT.FORMAT", image_format, _MEANS)
    return [
        PhotometricTransform("RGB" if image_format == "RGB" else "BGR"),
        RandomExpand(_MEANS[image_format]),
        SSDRandomCrop(),
        T.RandomFlip(),
        Stretch(image_size),
    ]


class SSDTargetMaker(TargetMaker):
    """Makes the annotations follow `build_ssd_augmentation`, and images that it empties be replaced."""

    needs_objects = True

    def __call__(self, record: dict, augmented: AugmentedImage) -> None:
        """See `TargetMaker`; adds "crowd_boxes"."""
        if "annotations" in record:
            follow_ssd_augmentation(record, augmented.transforms, augmented.size)


def follow_ssd_augmentation(dataset_dict: dict, transforms: T.TransformList, image_size: tuple[int, int]) -> None:
    """Prepare the annotations of an image for Detectron2's mapper, in place.

    Those whose centre has left the image are dropped. Polygons become masks at the original size, since the authors
    draw before they resize. Crowds move to "crowd_boxes": (any, 4) float32, XYXY in pixels of the transformed image.

    Args:
        dataset_dict: with "annotations", and the original "height" and "width".
        transforms: what happened to the image.
        image_size: (height, width) after it.
    """
    height, width = image_size
    kept, crowd_boxes = [], []
    for annotation in dataset_dict["annotations"]:
        box = np.array(BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS))
        x, y = transforms.apply_coords((box[None, :2] + box[None, 2:]) / 2)[0]
        if not (0 < x < width and 0 < y < height):
            continue
        if annotation.get("iscrowd", 0):
            crowd_boxes.append(transforms.apply_box(box[None])[0].clip(0, [width, height, width, height]))
            continue
        if isinstance(annotation.get("segmentation"), list):
            polygons = mask_util.frPyObjects(annotation["segmentation"], dataset_dict["height"], dataset_dict["width"])
            annotation["segmentation"] = mask_util.merge(polygons)
        kept.append(annotation)
    dataset_dict["annotations"] = kept
    dataset_dict["crowd_boxes"] = torch.as_tensor(np.array(crowd_boxes, np.float32).reshape(-1, 4))
