"""What a model's plugin may add to a training record."""

from typing import NamedTuple

import numpy as np
from detectron2.data import transforms as T


class AugmentedImage(NamedTuple):
    """What was done to an image.

    Attributes:
        transforms: from the image as it is annotated to the augmented one.
        size: (height, width) after them.
        sem_seg: (H, W) uint8 semantic labels as they are stored, before the transforms; None if there are none.
    """

    transforms: T.TransformList
    size: tuple[int, int]
    sem_seg: np.ndarray | None


class TargetMaker:
    """Adds a model's own ground truth to training records; `MaskDatasetMapper` calls it after augmenting the image.

    Attributes:
        needs_objects: whether an image left without objects is replaced by another one of the dataset.
    """

    needs_objects = False

    def __call__(self, record: dict, augmented: AugmentedImage) -> None:
        """
        Args:
            record: a copy of Detectron2's record of one image, changed in place. Its "annotations" are still those of
                the stored image; what is left of them becomes "instances" afterwards, unless the maker sets these.
            augmented: what happened to the image.
        """
        raise NotImplementedError
