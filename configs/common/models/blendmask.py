"""BlendMask on ResNet-50, as BlendMask/R_50_1x.yaml."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7

from pentamask.blendmask.basis_module import ProtoNet
from pentamask.blendmask.blender import Blender
from pentamask.blendmask.meta_arch import BlendMask
from pentamask.fcos.fcos import FCOS, DetectionLimits
from pentamask.fcos.head import FCOSHead

model = L(BlendMask)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
            stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=True, norm="FrozenBN"),
            out_features=["res3", "res4", "res5"],
            freeze_at=2,
        ),
        in_features=["res3", "res4", "res5"],
        out_channels=256,
        top_block=L(LastLevelP6P7)(in_channels=256, out_channels=256, in_feature="p5"),
    ),
    proposal_generator=L(FCOS)(
        fcos_head=L(FCOSHead)(in_channels=256, num_classes="${..num_classes}", num_levels=5, use_scale=False),
        in_features=["p3", "p4", "p5", "p6", "p7"],
        strides=[8, 16, 32, 64, 128],
        num_classes=80,
        sizes_of_interest=[64, 128, 256, 512],
        thresh_with_ctr=True,
        test_limits=L(DetectionLimits)(score_thresh=0.05, pre_nms_topk=1000, post_nms_topk=100),
    ),
    basis_module=L(ProtoNet)(
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
