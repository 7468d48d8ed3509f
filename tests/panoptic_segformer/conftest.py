import pytest
from detectron2.config import CfgNode, get_cfg

from pentamask.panoptic_segformer import add_panoptic_segformer_config


@pytest.fixture
def tiny_cfg() -> CfgNode:
    """A Panoptic SegFormer that runs in milliseconds: 3 thing and 2 stuff classes, every part once or twice."""
    cfg = get_cfg()
    add_panoptic_segformer_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "PanopticSegFormer"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.NORM, resnets.RES2_OUT_CHANNELS = 18, "BN", 64
    resnets.OUT_FEATURES = ["res3", "res4", "res5"]
    node = cfg.MODEL.PANOPTIC_SEGFORMER
    node.NUM_THING_CLASSES, node.NUM_STUFF_CLASSES = 3, 2
    node.CHANNELS, node.FEEDFORWARD_CHANNELS, node.NUM_HEADS = 64, 32, 4
    node.NUM_QUERIES = 6
    node.NUM_ENCODER_LAYERS, node.NUM_DECODER_LAYERS, node.NUM_THING_BLOCKS, node.NUM_STUFF_BLOCKS = 1, 2, 1, 2
    cfg.TEST.DETECTIONS_PER_IMAGE = 4
    return cfg
