"""ResNet-50 as Detectron2's own files have it, bare and with the feature pyramid of FCOS."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7

resnet_50 = L(ResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
    stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=True, norm="${..stem.norm}"),
    out_features=["res3", "res4", "res5"],
    freeze_at=2,
)

resnet_50_fpn_p6p7 = L(FPN)(
    bottom_up=resnet_50,
    in_features=["res3", "res4", "res5"],
    out_channels=256,
    top_block=L(LastLevelP6P7)(in_channels="${..out_channels}", out_channels="${..out_channels}", in_feature="p5"),
)
