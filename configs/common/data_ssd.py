"""COCO instance segmentation with the augmentation of SSD, in RGB, for YOLACT: loaders and evaluator."""

from detectron2.config import LazyCall as L

from pentamask.yolact.ssd_augmentation import SSDTargetMaker, build_ssd_augmentation

from .data import dataloader

dataloader.train.mapper.update(
    augmentations=L(build_ssd_augmentation)(image_size=550, image_format="${..image_format}"),
    target_maker=L(SSDTargetMaker)(),
    image_format="RGB",
    instance_mask_format="bitmask",
)
dataloader.train.aspect_ratio_grouping = False
dataloader.test.mapper.augmentations = []  # the model itself stretches the picture
