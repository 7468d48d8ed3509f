"""YOLACT on ResNet-50, as YOLACT/yolact_resnet50.yaml."""

from detectron2.config import LazyCall as L

from pentamask.yolact.fpn import YolactFPN
from pentamask.yolact.inference import Postprocessor
from pentamask.yolact.losses import YolactLoss
from pentamask.yolact.meta_arch import YOLACT

from .backbones import resnet_50

model = L(YOLACT)(
    backbone=L(YolactFPN)(
        bottom_up=resnet_50, in_features=["res3", "res4", "res5"], out_channels=256, num_extra_levels=2
    ),
    num_classes=80,
    image_size=550,
    num_prototypes=32,
    anchor_scales=[[24], [48], [96], [192], [384]],
    aspect_ratios=[1.0, 0.5, 2.0],
    square_anchors=True,
    loss=L(YolactLoss)(),
    postprocessor=L(Postprocessor)(image_size="${..image_size}"),
    rescore_masks=False,
    freeze_batch_norm=False,  # True for less than 6 images on a GPU
    pixel_mean=[123.68, 116.78, 103.94],  # RGB
    pixel_std=[58.40, 57.12, 57.38],
)
model.backbone.bottom_up.stem.norm = "BN"
model.backbone.bottom_up.stages.stride_in_1x1 = False
model.backbone.bottom_up.freeze_at = 0
