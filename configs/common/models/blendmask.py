"""BlendMask on ResNet-50, as BlendMask/R_50_1x.yaml."""

from detectron2.config import LazyCall as L

from pentamask.blendmask.basis_module import BasisModule
from pentamask.blendmask.blender import Blender
from pentamask.blendmask.meta_arch import BlendMask
from pentamask.fcos.fcos import FCOS, DetectionLimits
from pentamask.fcos.head import FCOSHead

from .backbones import resnet_50_fpn_p6p7

model = L(BlendMask)(
    backbone=resnet_50_fpn_p6p7,
    proposal_generator=L(FCOS)(
        fcos_head=L(FCOSHead)(in_channels=256, num_classes="${..num_classes}", num_levels=5, use_scale=False),
        in_features=["p3", "p4", "p5", "p6", "p7"],
        strides=[8, 16, 32, 64, 128],
        num_classes=80,
        sizes_of_interest=[64, 128, 256, 512],
        thresh_with_ctr=True,
        test_limits=L(DetectionLimits)(score_thresh=0.05, pre_nms_topk=1000, post_nms_topk=100),
    ),
    basis_module=L(BasisModule)(
        in_features=["p3", "p4", "p5"],
        in_channels=[256, 256, 256],
        loss_on=True,
        num_classes="${..proposal_generator.num_classes}",
    ),
    blender=L(Blender)(),
    top_channels=256,
    attention_channels=4 * 14 * 14,
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[1.0, 1.0, 1.0],
)
