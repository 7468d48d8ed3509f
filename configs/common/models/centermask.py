"""CenterMask on ResNet-50, as CenterMask/centermask_R_50_FPN_ms_3x.yaml."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher

from pentamask.centermask.mask_head import SpatialAttentionMaskHead
from pentamask.centermask.mask_iou_head import MaskIoUHead
from pentamask.centermask.meta_arch import CenterMask, ProposalFCOS
from pentamask.centermask.pooler import AdaptiveROIPooler
from pentamask.centermask.roi_heads import CenterROIHeads
from pentamask.fcos.fcos import DetectionLimits
from pentamask.fcos.head import FCOSHead

from .backbones import resnet_50_fpn_p6p7

model = L(CenterMask)(
    backbone=resnet_50_fpn_p6p7,
    proposal_generator=L(ProposalFCOS)(
        fcos_head=L(FCOSHead)(in_channels=256, num_classes="${..num_classes}", num_levels=5),
        in_features=["p3", "p4", "p5", "p6", "p7"],
        strides=[8, 16, 32, 64, 128],
        num_classes=80,
        sizes_of_interest=[64, 128, 256, 512],
        train_limits=L(DetectionLimits)(score_thresh=0.05, pre_nms_topk=1000, post_nms_topk=100),
        test_limits=L(DetectionLimits)(score_thresh=0.05, pre_nms_topk=1000, post_nms_topk=50),
        yield_proposal=True,
    ),
    roi_heads=L(CenterROIHeads)(
        num_classes="${..proposal_generator.num_classes}",
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        mask_in_features=["p3", "p4", "p5"],
        mask_pooler=L(AdaptiveROIPooler)(
            output_size=14,
            scales=[1 / 8, 1 / 16, 1 / 32],
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
            assign_criterion="ratio",
        ),
        mask_head=L(SpatialAttentionMaskHead)(
            input_shape=L(ShapeSpec)(channels=256, height=14, width=14),
            num_classes="${..num_classes}",
            conv_dims=[256, 256, 256, 256, 256],
        ),
        maskiou_head=L(MaskIoUHead)(in_channels=256, resolution=14, num_classes="${..num_classes}"),
    ),
    input_format="BGR",
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[1.0, 1.0, 1.0],
)
