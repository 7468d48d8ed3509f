"""Mask R-CNN: Detectron2's GeneralizedRCNN with the paper's choices and its released files."""

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, GeneralizedRCNN, ROIHeads
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from torch import nn

from pentamask.checkpoint.key_map import register_key_rules
from pentamask.common import check_pooler, derive, register
from pentamask.inputs import register_input_check
from pentamask.plugin import ClassCount

from .config import add_mask_rcnn_config
from .explain import explain
from .graph import MaskRCNNGraph
from .key_rules import KEY_RULES
from .poolers import EXTRA_POOLERS, replace_level_poolers
from .releases import RELEASES


@register(META_ARCH_REGISTRY)
class MaskRCNN(GeneralizedRCNN):
    """Mask R-CNN (arXiv 1703.06870): RPN, a box branch and a mask branch per region, losses L_cls + L_box + L_mask.

    For everything in Detectron2's model zoo this class runs Detectron2's own code and gives equal numbers; the paper's
    other variants are chosen by the config (see the README in this folder).
    """

    add_config = staticmethod(add_mask_rcnn_config)
    key_rules = KEY_RULES
    class_counts = (
        ClassCount(
            "thing_classes",
            "MODEL.ROI_HEADS.NUM_CLASSES",
            lazy_keys=("roi_heads.num_classes", "roi_heads.box_predictor.num_classes"),
        ),
    )
    score_thresholds = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST",)
    releases = RELEASES
    explain = explain
    graph = MaskRCNNGraph

    @configurable
    def __init__(self, *, backbone: Backbone, proposal_generator: nn.Module, roi_heads: ROIHeads, **kwargs) -> None:
        """Takes the arguments of Detectron2's `GeneralizedRCNN`."""
        super().__init__(backbone=backbone, proposal_generator=proposal_generator, roi_heads=roi_heads, **kwargs)
        shape = backbone.output_shape()
        if isinstance(proposal_generator, RPN):
            strides = [shape[name].stride for name in proposal_generator.in_features]
            key = "proposal_generator.anchor_generator.strides"
            derive(key, proposal_generator.anchor_generator.strides, strides)
        if isinstance(roi_heads, StandardROIHeads):
            check_pooler("roi_heads.box_pooler", roi_heads.box_pooler, roi_heads.box_in_features, shape)
            check_pooler("roi_heads.mask_pooler", roi_heads.mask_pooler, roi_heads.mask_in_features, shape)
        register_key_rules(self, self.key_rules)
        register_input_check(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        if not cfg.MODEL.MASK_ON:
            raise ValueError("MaskRCNN has a mask branch: set MODEL.MASK_ON True, or use GeneralizedRCNN.")
        head = cfg.MODEL.ROI_MASK_HEAD
        if head.ACTIVATION != "sigmoid" and head.NAME == "MaskRCNNConvUpsampleHead":
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.ACTIVATION {head.ACTIVATION!r} needs MODEL.ROI_MASK_HEAD.NAME FCNMaskHead or "
                "MLPMaskHead; Detectron2's MaskRCNNConvUpsampleHead does not read it."
            )
        plain = cfg.clone()
        plain.defrost()
        heads = {"box": cfg.MODEL.ROI_BOX_HEAD, "mask": cfg.MODEL.ROI_MASK_HEAD}
        for node in (plain.MODEL.ROI_BOX_HEAD, plain.MODEL.ROI_MASK_HEAD):
            if node.POOLER_TYPE in EXTRA_POOLERS:
                node.POOLER_TYPE = "ROIAlignV2"
        args = super().from_config(plain)
        roi_heads = args["roi_heads"]
        for name, node in heads.items():
            if node.POOLER_TYPE in EXTRA_POOLERS:
                # The C4 heads have one pooler, which ROI_BOX_HEAD describes.
                pooler = getattr(roi_heads, f"{name}_pooler", None) or (name == "box" and roi_heads.pooler)
                if pooler:
                    replace_level_poolers(pooler, node.POOLER_TYPE, node.POOLER_SAMPLING_RATIO)
        return args
