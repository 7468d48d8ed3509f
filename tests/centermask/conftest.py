import pytest
from detectron2.config import CfgNode, get_cfg

from pentamask.centermask import add_centermask_config


@pytest.fixture
def tiny_cfg() -> CfgNode:
    """A CenterMask-Lite that runs in milliseconds: the smallest VoVNet, narrow heads, 3 classes."""
    cfg = get_cfg()
    add_centermask_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "CenterMask"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_ON = cfg.MODEL.MASKIOU_ON = True
    cfg.MODEL.BACKBONE.NAME = "build_vovnet_fpn_p6p7_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = -1
    cfg.MODEL.VOVNET.CONV_BODY, cfg.MODEL.VOVNET.NORM = "V-19-slim-dw-eSE", "BN"
    cfg.MODEL.VOVNET.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["stage3", "stage4", "stage5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    cfg.MODEL.FCOS.NUM_CLASSES = 3
    cfg.MODEL.FCOS.NUM_CLS_CONVS = cfg.MODEL.FCOS.NUM_BOX_CONVS = 1
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.ROI_MASK_HEAD.NAME = "SpatialAttentionMaskHead"
    cfg.MODEL.ROI_MASK_HEAD.ASSIGN_CRITERION = "ratio"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 1, 16
    cfg.MODEL.ROI_MASKIOU_HEAD.NUM_CONV, cfg.MODEL.ROI_MASKIOU_HEAD.CONV_DIM = 2, 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = (8,), 4
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 4, 32
    return cfg
