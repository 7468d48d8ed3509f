"""COCO panoptic segmentation with DETR's augmentation, in RGB, for Panoptic SegFormer: loaders and evaluator."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from pentamask.data.augmentation import OpenCVResizeShortestEdge
from pentamask.data.mapper import MaskDatasetMapper
from pentamask.data.panoptic import PanopticLabels
from pentamask.panoptic_segformer.segment_targets import SegmentTargetMaker

from .data import dataloader

dataloader.train.dataset.update(names="coco_2017_train_panoptic", filter_empty=False)
dataloader.train.mapper = L(MaskDatasetMapper)(
    is_train=True,
    augmentations=[
        L(T.RandomApply)(
            tfm_or_aug=L(T.AugmentationList)(
                augs=[
                    L(OpenCVResizeShortestEdge)(
                        short_edge_length=[400, 500, 600], max_size=4200, sample_style="choice"
                    ),
                    L(T.RandomCrop)(crop_type="absolute_range", crop_size=[384, 600]),
                ]
            ),
            prob=0.5,
        ),
        L(OpenCVResizeShortestEdge)(
            short_edge_length=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
            max_size=1333,
            sample_style="choice",
        ),
        L(T.RandomFlip)(horizontal=True),
    ],
    image_format="RGB",
    target_maker=L(SegmentTargetMaker)(labels=L(PanopticLabels.of_dataset)(name="${....dataset.names}")),
)
dataloader.test.dataset.names = "coco_2017_val_panoptic"
dataloader.test.mapper.augmentations = [L(OpenCVResizeShortestEdge)(short_edge_length=800, max_size=1333)]
