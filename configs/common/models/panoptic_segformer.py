"""Panoptic SegFormer on ResNet-50, as PanopticSegFormer/R_50_2x.yaml."""

from detectron2.config import LazyCall as L

from pentamask.panoptic_segformer.encoder import DeformableEncoder
from pentamask.panoptic_segformer.location_decoder import LocationDecoder
from pentamask.panoptic_segformer.mask_decoder import MaskDecoder
from pentamask.panoptic_segformer.matcher import Weights
from pentamask.panoptic_segformer.merging import MergeOptions
from pentamask.panoptic_segformer.meta_arch import PanopticSegFormer

from .backbones import resnet_50

model = L(PanopticSegFormer)(
    backbone=resnet_50,
    in_features=["res3", "res4", "res5"],
    encoder=L(DeformableEncoder)(
        in_channels=[512, 1024, 2048],
        channels="${..channels}",
        hidden_channels=1024,
        num_layers=6,
        num_heads=8,
        num_points=4,
        dropout=0.1,
    ),
    location_decoder=L(LocationDecoder)(
        num_queries=300,
        num_classes="${..num_thing_classes}",
        channels="${..channels}",
        hidden_channels=1024,
        num_layers=6,
        num_heads=8,
        num_levels=4,
        num_points=4,
        dropout=0.1,
    ),
    thing_mask_decoder=L(MaskDecoder)(
        channels="${..channels}", hidden_channels=1024, num_blocks=4, num_heads=8, num_levels=3, self_attention=False
    ),
    stuff_mask_decoder=L(MaskDecoder)(
        channels="${..channels}", hidden_channels=1024, num_blocks=6, num_heads=8, num_levels=3, self_attention=True
    ),
    num_thing_classes=80,
    num_stuff_classes=53,
    channels=256,
    weights=L(Weights)(cls=2.0, l1=5.0, giou=2.0, dice=2.0),
    max_things=100,
    merge_options=L(MergeOptions)(rule="mask_wise"),
    tasks=["panoptic_seg", "instances", "sem_seg"],
    pixel_mean=[123.675, 116.28, 103.53],  # RGB
    pixel_std=[58.395, 57.12, 57.375],
)
model.backbone.stages.stride_in_1x1 = False
