"""CenterMask: FCOS boxes, then the mask branch; and its panoptic form."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
    build_backbone,
)
from detectron2.structures import ImageList, Instances
from torch import Tensor

from pentamask.checkpoint.key_map import register_key_rules
from pentamask.common import check_pooler, derive, register
from pentamask.fcos import FCOS, FCOS_CLASS_COUNT, level_strides
from pentamask.inputs import register_input_check
from pentamask.plugin import ClassCount, Release

from .config import DEFAULT_CLASS_COUNT, add_centermask_config
from .explain import explain
from .graph import CenterMaskGraph
from .key_rules import KEY_RULES
from .releases import PANOPTIC_RELEASES, RELEASES
from .roi_heads import CenterROIHeads


def _authors_names(meta_architecture: str) -> dict[str, str]:
    """How centermask2's files name a model. With these parts registered, Detectron2's own `build_model` makes of such
    a file the same model, only without what `CenterMask` declares beside it."""
    return {
        "MODEL.META_ARCHITECTURE": meta_architecture,
        "MODEL.PROPOSAL_GENERATOR.NAME": "FCOS",
        "MODEL.ROI_HEADS.NAME": "CenterROIHeads",
    }


@register(PROPOSAL_GENERATOR_REGISTRY, "FCOS")
class ProposalFCOS(FCOS):
    """FCOS in the place of Detectron2's proposal generators."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Args: input_shape: of the backbone's features."""
        args = super().from_config(cfg, input_shape)
        return {**args, "yield_proposal": cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON}

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images, features, gt_instances: see `FCOS.forward`.

        Returns:
            In training proposals with proposal_boxes and objectness_logits (here: scores), none if FCOS is not to
            yield them, and the losses. In inference the detections and no losses.
        """
        results: Any
        results, losses = super().forward(images, features, gt_instances)
        if not self.training:
            return results, {}
        proposals = [
            Instances(x.image_size, proposal_boxes=x.pred_boxes, objectness_logits=x.scores)
            for x in results.get("proposals", [])
        ]
        return proposals, losses


@register(META_ARCH_REGISTRY)
class CenterMask(GeneralizedRCNN):
    """Anchor-free instance segmentation (arXiv 1911.06667): Detectron2's `GeneralizedRCNN` on the boxes of FCOS.

    In training the losses are those of `FCOS` and `CenterROIHeads`; in inference a dict per image has "instances" with
    pred_boxes, scores, pred_classes, locations (n, 2) in pixels of the network input, fpn_levels, pred_masks (n,
    height, width) bool at output size, mask_scores with mask scoring, and pred_keypoints with key points.
    """

    add_config = staticmethod(add_centermask_config)
    key_rules = KEY_RULES
    class_counts: tuple[ClassCount, ...] = (
        FCOS_CLASS_COUNT,
        ClassCount(
            "thing_classes",
            "MODEL.ROI_HEADS.NUM_CLASSES",
            lazy_keys=("roi_heads.num_classes", "roi_heads.maskiou_head.num_classes"),
            unset=DEFAULT_CLASS_COUNT,
        ),
    )
    score_thresholds = ("MODEL.FCOS.INFERENCE_TH_TEST",)
    dense_parts = ("backbone", "proposal_generator.fcos_head")
    stages: Mapping[str, str] = {"roi_heads": "masks"}
    releases: tuple[Release, ...] = RELEASES
    authors_names = _authors_names("GeneralizedRCNN")
    explain = explain
    graph = CenterMaskGraph

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        """Args: as those of `GeneralizedRCNN`; proposal_generator is `ProposalFCOS`, roi_heads `CenterROIHeads`."""
        super().__init__(**kwargs)
        shape, fcos, heads = self.backbone.output_shape(), self.proposal_generator, self.roi_heads
        derive("proposal_generator.strides", fcos.strides, level_strides(fcos.in_features, shape))
        check_pooler("roi_heads.mask_pooler", heads.mask_pooler, heads.mask_in_features, shape)
        check_pooler("roi_heads.keypoint_pooler", heads.keypoint_pooler, heads.keypoint_in_features, shape)
        register_key_rules(self, self.key_rules)
        register_input_check(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        return {
            "backbone": backbone,
            "proposal_generator": ProposalFCOS(cfg, shape),
            "roi_heads": CenterROIHeads(cfg, shape),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }


@register(META_ARCH_REGISTRY)
class PanopticCenterMask(PanopticFPN, CenterMask):
    """CenterMask and a semantic head: Detectron2's `PanopticFPN` with CenterMask's instances.

    Adds `loss_sem_seg`, and to the results "sem_seg" (classes, height, width) logits and "panoptic_seg". Instances are
    merged in the order of their box scores, as in the released code.
    """

    class_counts = (
        *CenterMask.class_counts,
        ClassCount("stuff_classes", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", lazy_keys=("sem_seg_head.num_classes",)),
    )
    releases = PANOPTIC_RELEASES
    authors_names = _authors_names("PanopticFPN")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        if cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT != 1:
            raise ValueError("MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT: CenterMask has no such weight, set it to 1.0.")
        return super().from_config(cfg)
