"""YOLACT: prototypes for the image, coefficients for each instance, and their linear combination."""

import logging
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.utils import comm
from torch import Tensor, nn

from pentamask.checkpoint.key_map import register_key_rules
from pentamask.common import at_least_float32, register, upload
from pentamask.inputs import register_input_check
from pentamask.plugin import ClassCount

from .anchors import check_anchors, prior_boxes
from .config import add_yolact_config
from .explain import explain
from .fpn import xavier_init
from .graph import YOLACTGraph
from .inference import Detections, Postprocessor
from .key_rules import KEY_RULES
from .losses import Targets, YolactLoss
from .mask_networks import MASK_IOU_MIN_SIDE, MaskIoUNet, ProtoNet
from .prediction_head import HeadOutputs, PredictionHead
from .releases import RELEASES
from .ssd_augmentation import SSDTargetMaker, build_ssd_augmentation

_logger = logging.getLogger(__name__)


class Predictions(NamedTuple):
    """What the network says about N images.

    Attributes:
        outputs: of the head.
        prototypes: (N, k, h, w), >= 0.
        priors: (P, 4) prior boxes (cx, cy, w, h), relative.
    """

    outputs: HeadOutputs
    prototypes: Tensor
    priors: Tensor


@register(META_ARCH_REGISTRY)
class YOLACT(nn.Module):
    """Real-time instance segmentation (arXiv 1904.02689), and YOLACT++ (arXiv 1912.06218)."""

    add_config = staticmethod(add_yolact_config)
    key_rules = KEY_RULES
    class_counts = (ClassCount("thing_classes", "MODEL.YOLACT.NUM_CLASSES", lazy_keys=("num_classes",)),)
    score_thresholds = ("MODEL.YOLACT.SCORE_THRESH_TEST",)
    dense_parts = ("backbone", "proto_net", "prediction_head")
    stages: Mapping[str, str] = {
        "prediction_head": "heads",
        "proto_net": "masks",
        "mask_iou_net": "masks",
        "postprocessor.nms": "NMS",
        "postprocessor.instances": "masks",
    }
    releases = RELEASES
    explain = explain
    graph = YOLACTGraph

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        image_size: int,
        num_prototypes: int,
        anchor_scales: list[list[float]],
        aspect_ratios: list[float],
        square_anchors: bool,
        loss: YolactLoss,
        postprocessor: Postprocessor,
        rescore_masks: bool,
        freeze_batch_norm: bool,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        """
        Args:
            backbone: `YolactFPN`.
            num_classes: K, without background.
            image_size: images are stretched to a square of this side.
            num_prototypes: k.
            anchor_scales, aspect_ratios, square_anchors: see `prior_boxes`.
            loss, postprocessor: for training and inference.
            rescore_masks: predict the masks' IoU too, as YOLACT++ does.
            freeze_batch_norm: use the stored statistics and learn nothing in batch norm.
            pixel_mean, pixel_std: per channel of the input image.
        """
        super().__init__()
        shapes = backbone.output_shape()
        channels = next(iter(shapes.values())).channels
        check_anchors(anchor_scales, len(shapes))
        proto_side = 2 * -(-image_size // next(iter(shapes.values())).stride)
        if rescore_masks and proto_side < MASK_IOU_MIN_SIDE:
            raise ValueError(
                f"MODEL.YOLACT.IMAGE_SIZE {image_size} gives prototypes of {proto_side} pixels, and mask rescoring "
                f"needs {MASK_IOU_MIN_SIDE}: enlarge it or set MODEL.YOLACT.MASK_IOU.ENABLED False."
            )
        if freeze_batch_norm:
            _logger.info("Batch norm is frozen: a process has fewer images than MODEL.YOLACT.BN_MIN_BATCH.")
            backbone = FrozenBatchNorm2d.convert_frozen_batchnorm(backbone)
        self.backbone = backbone
        self.proto_net = ProtoNet(channels, num_prototypes)
        self.prediction_head = PredictionHead(
            in_channels=channels,
            num_anchors=len(anchor_scales[0]) * len(aspect_ratios),
            num_classes=num_classes,
            num_prototypes=num_prototypes,
        )
        self.semantic_seg_conv = nn.Conv2d(channels, num_classes, 1)
        xavier_init(self.semantic_seg_conv)
        self.mask_iou_net = MaskIoUNet(num_classes) if rescore_masks else None
        self.image_size = image_size
        self.anchor_scales = tuple(tuple(level) for level in anchor_scales)
        self.aspect_ratios = tuple(aspect_ratios)
        self.square_anchors = square_anchors
        self.loss = loss
        self.postprocessor = postprocessor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        register_key_rules(self, self.key_rules)
        register_input_check(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.YOLACT
        return {
            "backbone": build_backbone(cfg),
            "num_classes": node.NUM_CLASSES,
            "image_size": node.IMAGE_SIZE,
            "num_prototypes": node.NUM_PROTOTYPES,
            "anchor_scales": node.ANCHOR_SCALES,
            "aspect_ratios": node.ASPECT_RATIOS,
            "square_anchors": node.SQUARE_ANCHORS,
            "loss": YolactLoss(cfg),
            "postprocessor": Postprocessor(cfg),
            "rescore_masks": node.MASK_IOU.ENABLED,
            "freeze_batch_norm": cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size() < node.BN_MIN_BATCH,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @classmethod
    def build_augmentations(cls, cfg: CfgNode, is_train: bool) -> list[T.Augmentation | T.Transform] | None:
        """In training, with INPUT.SSD_AUGMENTATION, that of SSD."""
        if not (is_train and cfg.INPUT.SSD_AUGMENTATION):
            return None
        return build_ssd_augmentation(cfg.MODEL.YOLACT.IMAGE_SIZE, cfg.INPUT.FORMAT)

    @classmethod
    def build_target_maker(cls, cfg: CfgNode) -> SSDTargetMaker | None:
        """With INPUT.SSD_AUGMENTATION, what keeps the annotations in step with it."""
        return SSDTargetMaker() if cfg.INPUT.SSD_AUGMENTATION else None

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: Detectron2's input dicts; images of any size, with channels as in `INPUT.FORMAT`. Training
                needs "instances" with gt_boxes, gt_classes and gt_masks, and takes "crowd_boxes" (any, 4), XYXY in
                pixels of the image, where nothing is learned.

        Returns:
            In training the losses of `YolactLoss`. In inference a dict per image with "instances" at output size,
            see `Postprocessor.instances`, without those whose box is empty.

        Raises:
            FloatingPointError: training has diverged.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images)
        predictions = self.predict(features)
        if self.training:
            if not predictions.prototypes.isfinite().all():
                # Otherwise binary cross-entropy fails on probabilities outside [0, 1], with a message that misleads.
                raise FloatingPointError("YOLACT's prototypes became infinite or NaN: lower SOLVER.BASE_LR.")
            semantic_logits = at_least_float32(self.semantic_seg_conv(next(iter(features.values()))))
            targets = [self._targets(x) for x in batched_inputs]
            # The mask loss takes probabilities, which autocast forbids.
            with torch.autocast(self.device.type, enabled=False):
                return self.loss(
                    predictions.outputs,
                    predictions.prototypes,
                    semantic_logits,
                    predictions.priors,
                    targets,
                    self.mask_iou_net,
                )
        results = []
        for i, x in enumerate(batched_inputs):
            detections = self.detect(predictions, i)
            height, width = x.get("height", x["image"].shape[1]), x.get("width", x["image"].shape[2])
            instances = self.postprocessor.instances(
                detections, predictions.prototypes[i], height, width, self.mask_iou_net
            )
            results.append({"instances": instances[instances.pred_boxes.nonempty()]})
        return results

    def preprocess_image(self, batched_inputs: list[dict]) -> Tensor:
        """The images, stretched to the square network input in floating point, normalised: (N, 3, S, S)."""
        size = (self.image_size, self.image_size)
        pictures = [x["image"].to(self.pixel_mean)[None] for x in batched_inputs]
        # Without antialiasing, as OpenCV does it; a picture of this size already stays as it is.
        images = torch.cat([F.interpolate(x, size, mode="bilinear", align_corners=False) for x in pictures])
        return (images - self.pixel_mean) / self.pixel_std

    def predict(self, features: dict[str, Tensor]) -> Predictions:
        """The raw predictions from the levels of the backbone, finest first."""
        levels = list(features.values())
        outputs = HeadOutputs(*(at_least_float32(x) for x in self.prediction_head(levels)))
        level_sizes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        priors = prior_boxes(level_sizes, self.anchor_scales, self.aspect_ratios, self.image_size, self.square_anchors)
        priors = upload(priors.to(outputs.loc.dtype), outputs.loc.device)
        return Predictions(outputs, at_least_float32(self.proto_net(levels[0])), priors)

    def detect(self, predictions: Predictions, i: int) -> Detections:
        """The detections in image `i` of the batch."""
        loc, logits, coefficients = (output[i] for output in predictions.outputs)
        return self.postprocessor.detect(loc, logits, coefficients, predictions.priors)

    def _targets(self, x: dict) -> Targets:
        gt: Instances = x["instances"].to(self.device)
        height, width = gt.image_size
        scale = self.pixel_mean.new_tensor([width, height, width, height])
        crowd_boxes = x.get("crowd_boxes", torch.zeros(0, 4)).to(scale)
        return Targets(gt.gt_boxes.tensor / scale, gt.gt_classes, self._masks(gt).to(scale), crowd_boxes / scale)

    @staticmethod
    def _masks(gt: Instances) -> Tensor:
        """(M, H, W) at image size."""
        if len(gt) == 0:
            return torch.zeros((0, *gt.image_size))
        masks = gt.gt_masks
        if isinstance(masks, PolygonMasks):
            masks = BitMasks.from_polygon_masks(masks, *gt.image_size)
        return masks.tensor
