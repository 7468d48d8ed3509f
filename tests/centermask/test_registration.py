"""pentamask can be imported beside centermask2, whose registered names are its own."""

from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)

import pentamask  # noqa: F401

THEIRS = {
    BACKBONE_REGISTRY: (
        "build_fcos_vovnet_fpn_backbone",
        "build_fcos_mobilenetv2_fpn_backbone",
        "build_fcos_resnet_fpn_backbone",
        "build_vovnet_backbone",
        "build_vovnet_fpn_backbone",
        "build_mnv2_backbone",
        "build_mobilenetv2_fpn_backbone",
    ),
    PROPOSAL_GENERATOR_REGISTRY: ("FCOS",),
    ROI_HEADS_REGISTRY: ("CenterROIHeads",),
}
OURS = {
    META_ARCH_REGISTRY: ("CenterMask", "PanopticCenterMask"),
    BACKBONE_REGISTRY: ("build_vovnet_fpn_p6p7_backbone", "build_mobilenetv2_fpn_p6p7_backbone"),
    ROI_MASK_HEAD_REGISTRY: ("SpatialAttentionMaskHead",),
}


def test_names():
    assert [name for registry, names in THEIRS.items() for name in names if name in registry] == []
    assert all(name in registry for registry, names in OURS.items() for name in names)
