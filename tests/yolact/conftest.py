import pytest
from detectron2.config import CfgNode, get_cfg

from pentamask.data.config import add_data_config
from pentamask.yolact import add_yolact_config


@pytest.fixture
def tiny_cfg() -> CfgNode:
    """A YOLACT that runs in milliseconds: ResNet-18, narrow everywhere, 3 classes, 64 x 64 pixels."""
    cfg = get_cfg()
    add_data_config(cfg)
    add_yolact_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "YOLACT"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.BACKBONE.NAME = "build_yolact_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.NORM, resnets.RES2_OUT_CHANNELS, resnets.STRIDE_IN_1X1 = 18, "BN", 64, False
    resnets.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    node = cfg.MODEL.YOLACT
    node.NUM_CLASSES, node.IMAGE_SIZE, node.NUM_PROTOTYPES, node.NUM_EXTRA_LEVELS = 3, 64, 8, 1
    node.ANCHOR_SCALES = [[16], [24], [40]]
    node.SQUARE_ANCHORS = False
    return cfg
