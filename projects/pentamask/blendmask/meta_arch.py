"""BlendMask: FCOS boxes with attention, full-image bases, and their blend."""

from collections.abc import Mapping

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, build_sem_seg_head
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from pentamask.common import derive, register
from pentamask.fcos import FCOS, FCOS_CLASS_COUNT, OneStageDetector
from pentamask.graph import Graph
from pentamask.plugin import ClassCount, Release

from .basis_module import BasisModule, basis_sem_from_instances
from .basis_sem import BasisSemMaker
from .blender import Blender
from .config import add_blendmask_config
from .explain import add_internals, explain, image_maps
from .graph import BlendMaskGraph
from .key_rules import KEY_RULES
from .releases import RELEASES


@register(META_ARCH_REGISTRY)
class BlendMask(OneStageDetector):
    """Top-down meets bottom-up for instance segmentation (arXiv 2001.00309), and its panoptic extension."""

    add_config = staticmethod(add_blendmask_config)
    key_rules = KEY_RULES
    class_counts = (
        FCOS_CLASS_COUNT,
        ClassCount(
            "thing_classes",
            "MODEL.BASIS_MODULE.NUM_CLASSES",
            lazy_keys=("basis_module.num_classes",),
            enabled_by="MODEL.BASIS_MODULE.LOSS_ON",
            unset=0,
        ),
        ClassCount(
            "stuff_classes",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
            lazy_keys=("panoptic_module.num_classes",),
            enabled_by="MODEL.PANOPTIC_FPN.COMBINE.ENABLED",
        ),
    )
    dense_parts = ("backbone", "proposal_generator.fcos_head", "basis_module")
    stages: Mapping[str, str] = {"basis_module": "masks", "blender": "masks", "top_layer": "heads"}
    releases: tuple[Release, ...] = RELEASES
    explain = explain
    graph: type[Graph] = BlendMaskGraph

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: FCOS,
        basis_module: BasisModule,
        blender: Blender,
        top_channels: int,
        attention_channels: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        panoptic_module: SemSegFPNHead | None = None,
        combine_overlap_thresh: float = 0.5,
        combine_stuff_area_limit: int = 4096,
        combine_instances_score_thresh: float = 0.5,
        visualize: bool = False,
    ) -> None:
        """
        Args:
            backbone, proposal_generator, pixel_mean, pixel_std: see `OneStageDetector`.
            basis_module: `BasisModule`.
            blender: `Blender`.
            top_channels: channels of the box tower, the input of the top layer.
            attention_channels: bases x attention size squared, the output of the top layer.
            panoptic_module: Detectron2's `SemSegFPNHead` for the panoptic model, or None.
            combine_overlap_thresh, combine_stuff_area_limit, combine_instances_score_thresh: see Detectron2's
                `combine_semantic_and_instance_outputs`.
            visualize: add "bases" (K, H, W), at stride 4 of the padded image, and with an auxiliary head
                "sem_thing_seg" (classes + 1, height, width) logits to each result.
        """
        super().__init__(
            backbone=backbone, proposal_generator=proposal_generator, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        stride = backbone.output_shape()[basis_module.in_features[0]].stride
        if basis_module.loss_on:
            derive("basis_module.loss_stride", basis_module.loss_stride, stride)
        derive("blender.spatial_scale", blender.spatial_scale, 2 / stride)
        self.basis_module = basis_module
        self.blender = blender
        self.panoptic_module = panoptic_module
        self.combine_overlap_thresh = combine_overlap_thresh
        self.combine_stuff_area_limit = combine_stuff_area_limit
        self.combine_instances_score_thresh = combine_instances_score_thresh
        self.visualize = visualize
        self.top_layer = nn.Conv2d(top_channels, attention_channels, 3, padding=1)
        nn.init.normal_(self.top_layer.weight, std=0.01)
        nn.init.zeros_(self.top_layer.bias)  # type: ignore[arg-type]  # it has one

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
        return {
            "backbone": backbone,
            "proposal_generator": FCOS(cfg, shape),
            "basis_module": BasisModule(cfg, shape),
            "blender": Blender(cfg, shape),
            "top_channels": shape[cfg.MODEL.FCOS.IN_FEATURES[0]].channels,
            "attention_channels": cfg.MODEL.BASIS_MODULE.NUM_BASES * cfg.MODEL.BLENDMASK.ATTN_SIZE**2,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "panoptic_module": build_sem_seg_head(cfg, shape) if combine.ENABLED else None,
            "combine_overlap_thresh": combine.OVERLAP_THRESH,
            "combine_stuff_area_limit": combine.STUFF_AREA_LIMIT,
            "combine_instances_score_thresh": combine.INSTANCES_CONFIDENCE_THRESH,
            "visualize": cfg.MODEL.BLENDMASK.VISUALIZE,
        }

    @classmethod
    def build_target_maker(cls, cfg: CfgNode) -> BasisSemMaker | None:
        """For training with the auxiliary semantic loss, its target."""
        node = cfg.MODEL.BASIS_MODULE
        return BasisSemMaker(node.ANN_SET) if node.LOSS_ON else None

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: Detectron2's input dicts. Training needs "instances" with gt_boxes, gt_classes and
                gt_masks; the panoptic model "sem_seg" (H, W) as well. "basis_sem" (H, W) int64 (see
                `BasisModule.losses`) is made from the instances if it is absent.

        Returns:
            In training a dict of losses: `loss_basis_sem`, `loss_mask`, those of `FCOS`, `loss_sem_seg`.
            In inference a dict per image: "instances" with pred_boxes, scores, pred_classes and pred_masks (n, height,
            width) bool at output size; of the panoptic model also "sem_seg" (classes, height, width) logits and
            "panoptic_seg".
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if self.training:
            return self._losses(batched_inputs, images, features)
        sem_seg = self.panoptic_module(features)[0] if self.panoptic_module is not None else None
        bases, detections = self.detect(images, features)
        detections = self.blender.inference(bases, detections)
        results = self._postprocess(batched_inputs, images.image_sizes, detections, sem_seg)
        if self.visualize:
            add_internals(results, batched_inputs, images, image_maps(self, images, features, bases))
        return results

    def detect(self, images: ImageList, features: dict[str, Tensor]) -> tuple[Tensor, list[Instances]]:
        """Before blending: the bases (N, K, H, W), and detections with their attention, see `Blender.inference`."""
        detections, _ = self.proposal_generator(images, features, top_module=self.top_layer)
        return self.basis_module(features), detections

    def _losses(self, batched_inputs: list[dict], images: ImageList, features: dict[str, Tensor]) -> dict[str, Tensor]:
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        losses = {}
        if self.panoptic_module is not None:
            ignore = self.panoptic_module.ignore_value
            _, losses = self.panoptic_module(features, self._batch_maps(batched_inputs, "sem_seg", ignore))
        bases = self.basis_module(features)
        if self.basis_module.loss_on:
            maps = [
                x if "basis_sem" in x else {"basis_sem": basis_sem_from_instances(gt, gt.image_size)}
                for x, gt in zip(batched_inputs, gt_instances)
            ]
            losses.update(self.basis_module.losses(features, self._batch_maps(maps, "basis_sem", 0)))
        results, fcos_losses = self.proposal_generator(images, features, gt_instances, self.top_layer)
        losses.update(self.blender.losses(bases, results["positives"], gt_instances))
        losses.update(fcos_losses)
        return losses

    def _batch_maps(self, batched_inputs: list[dict], name: str, pad_value: int) -> Tensor:
        """The (H, W) maps `name` of all inputs, padded like the images: (N, H', W') int64."""
        if name not in batched_inputs[0]:
            raise ValueError(f'The panoptic BlendMask needs "{name}" in every training input.')
        maps = [x[name].to(self.device).long() for x in batched_inputs]
        return ImageList.from_tensors(
            maps, self.backbone.size_divisibility, pad_value, self.backbone.padding_constraints
        ).tensor

    def _postprocess(
        self,
        batched_inputs: list[dict],
        image_sizes: list[tuple[int, int]],
        detections: list[Instances],
        sem_seg: Tensor | None,
    ) -> list[dict]:
        results = []
        for i, (x, image_size, detection) in enumerate(zip(batched_inputs, image_sizes, detections)):
            height, width = x.get("height", image_size[0]), x.get("width", image_size[1])
            result = {"instances": detector_postprocess(detection, height, width)}
            if sem_seg is not None:
                result["sem_seg"] = sem_seg_postprocess(sem_seg[i], image_size, height, width)
                result["panoptic_seg"] = combine_semantic_and_instance_outputs(
                    result["instances"],
                    result["sem_seg"].argmax(dim=0),
                    self.combine_overlap_thresh,
                    self.combine_stuff_area_limit,
                    self.combine_instances_score_thresh,
                )
            results.append(result)
        return results
