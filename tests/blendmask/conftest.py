import pytest
from detectron2.config import CfgNode, get_cfg

from pentamask.blendmask import add_blendmask_config


@pytest.fixture
def tiny_cfg() -> CfgNode:
    """A BlendMask that runs in milliseconds: ResNet-18, narrow everywhere, 3 classes."""
    cfg = get_cfg()
    add_blendmask_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "BlendMask"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_p6p7_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.NORM, resnets.RES2_OUT_CHANNELS = 18, "BN", 64
    resnets.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    cfg.MODEL.FCOS.NUM_CLASSES = 3
    cfg.MODEL.FCOS.NUM_CLS_CONVS = cfg.MODEL.FCOS.NUM_BOX_CONVS = 1
    cfg.MODEL.FCOS.THRESH_WITH_CTR = True
    cfg.MODEL.BASIS_MODULE.CONVS_DIM = 16
    cfg.MODEL.BASIS_MODULE.NUM_CONVS = 1
    cfg.MODEL.BASIS_MODULE.LOSS_ON = True
    cfg.MODEL.BLENDMASK.ATTN_SIZE, cfg.MODEL.BLENDMASK.BOTTOM_RESOLUTION = 7, 28
    cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED = False
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 4, 32
    return cfg
