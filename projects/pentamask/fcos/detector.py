"""The detector that consists of FCOS and nothing else."""

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, GeneralizedRCNN, ProposalNetwork, build_backbone
from torch import Tensor

from pentamask.checkpoint.key_map import KeyRules, register_key_rules
from pentamask.common import derive, register
from pentamask.graph import Graph
from pentamask.inputs import register_input_check
from pentamask.plugin import ClassCount, Release

from .config import add_fcos_config
from .fcos import FCOS, level_strides
from .graph import FCOSGraph
from .key_rules import FCOS_KEY_RULES
from .releases import RELEASES

FCOS_CLASS_COUNT = ClassCount(
    "thing_classes",
    "MODEL.FCOS.NUM_CLASSES",
    lazy_keys=("proposal_generator.num_classes", "proposal_generator.fcos_head.num_classes"),
)


@register(META_ARCH_REGISTRY)
class OneStageDetector(ProposalNetwork):
    """FCOS on its own: boxes, scores and classes under "instances"."""

    add_config = staticmethod(add_fcos_config)
    key_rules: KeyRules = FCOS_KEY_RULES
    class_counts: tuple[ClassCount, ...] = (FCOS_CLASS_COUNT,)
    score_thresholds = ("MODEL.FCOS.INFERENCE_TH_TEST",)
    dense_parts: tuple[str, ...] = ("backbone", "proposal_generator.fcos_head")
    releases: tuple[Release, ...] = RELEASES
    graph: type[Graph] = FCOSGraph

    # Normalising, padding and batching, which Detectron2's `ProposalNetwork` has no method for.
    preprocess_image = GeneralizedRCNN.preprocess_image

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: FCOS,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        """
        Args:
            backbone: Detectron2 backbone with a feature pyramid.
            proposal_generator: `FCOS`.
            pixel_mean, pixel_std: per channel of the input image.
        """
        strides = level_strides(proposal_generator.in_features, backbone.output_shape())
        derive("proposal_generator.strides", proposal_generator.strides, strides)
        super().__init__(
            backbone=backbone, proposal_generator=proposal_generator, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        register_key_rules(self, self.key_rules)
        register_input_check(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": FCOS(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: Detectron2's input dicts; "instances" are needed in training.

        Returns:
            In training the losses of `FCOS.losses`, else a dict per image with "instances" at output size.
        """
        results = super().forward(batched_inputs)
        if self.training:
            return results
        return [{"instances": result["proposals"]} for result in results]
