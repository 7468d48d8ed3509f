"""FCOS as a proposal generator."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.layers import ShapeSpec, cat
from detectron2.structures import ImageList, Instances
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn

from pentamask.common import at_least_float32, check_choice, derive, mean_count, reduce_mean

from .decode import add_top_features, decode_level, select_detections, top_features
from .head import FCOSHead, FCOSOutputs
from .locations import level_locations
from .losses import ctrness_targets, location_loss, smoothed_ious
from .targets import fcos_targets, level_ranges

_DEFAULT_DETECTIONS: int = get_cfg().TEST.DETECTIONS_PER_IMAGE


@dataclass(frozen=True)
class DetectionLimits:
    """Thresholds of detection, see `decode_level` and `select_detections`."""

    score_thresh: float = 0.05
    pre_nms_topk: int = 1000
    post_nms_topk: int = 100


@dataclass
class Positives:
    """The P locations of a batch that have an object, level by level, in each level image by image.

    Attributes:
        pos_inds: (P,) index into all locations of the batch in that order.
        gt_inds: (P,) index of the object in the batch-wide list of objects.
        levels: (P,) number of the level.
        reg_targets: (P, 4) left, top, right, bottom distances in strides.
        gt_ctrs: (P,) centre-ness of the location in its object.
        loss_denorm: scalar, sum of `gt_ctrs`, averaged over workers.
        top_feats: (P, D) output of the top module there, or None.
    """

    pos_inds: Tensor
    gt_inds: Tensor
    levels: Tensor
    reg_targets: Tensor
    gt_ctrs: Tensor
    loss_denorm: Tensor
    top_feats: Tensor | None


def level_strides(in_features: list[str], input_shape: dict[str, ShapeSpec]) -> list[int]:
    """Strides, in pixels, of FCOS's levels in a backbone's output.

    Raises:
        ValueError: the backbone lacks a level.
    """
    missing = [name for name in in_features if name not in input_shape]
    if missing:
        raise ValueError(
            f"MODEL.FCOS.IN_FEATURES names {missing}, the backbone has {list(input_shape)}; "
            "see also MODEL.FCOS.TOP_LEVELS."
        )
    return [input_shape[name].stride for name in in_features]


class FCOS(nn.Module):
    """Fully convolutional one-stage detector (arXiv 1904.01355, 2006.09214; the released code where they differ).

    Symbols: N images, L levels, R locations over all levels of an image, P positive locations of the batch, K classes.
    """

    moving_num_fg: Tensor

    @configurable
    def __init__(
        self,
        *,
        fcos_head: nn.Module,
        in_features: list[str],
        strides: list[int],
        num_classes: int,
        sizes_of_interest: list[float],
        center_radius: float | None = 1.5,
        box_quality: str = "ctrness",
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        cls_loss_weight: float = 1.0,
        cls_normalizer: str = "fg",
        loc_loss_type: str = "giou",
        thresh_with_ctr: bool = False,
        nms_thresh: float = 0.6,
        train_limits: DetectionLimits | None = None,
        test_limits: DetectionLimits | None = None,
        yield_proposal: bool = False,
    ) -> None:
        """
        Args:
            fcos_head: see `FCOSHead`.
            in_features: names of the L levels, high resolution first.
            strides: of the levels, in pixels.
            num_classes: classes K without background; label K is the background.
            sizes_of_interest: L - 1 limits of the levels' object sizes, in pixels, see `level_ranges`.
            center_radius: of centre sampling, in strides; None switches it off.
            box_quality: "ctrness" to learn centre-ness, "iou" to learn the IoU of the predicted box.
            focal_alpha, focal_gamma: of the focal loss.
            cls_loss_weight: factor of the class loss.
            cls_normalizer: the class loss is divided by the number of positives ("fg"), its moving average
                ("moving_fg") or the number of locations ("all").
            loc_loss_type: see `location_loss`.
            thresh_with_ctr: apply the score threshold to probability * quality instead of the probability.
            nms_thresh: IoU of class-wise NMS; <= 0 for none.
            train_limits, test_limits: detection thresholds in training (proposals) and inference.
            yield_proposal: return proposals in training too.
        """
        super().__init__()
        if not len(in_features) == len(strides) == len(sizes_of_interest) + 1:
            raise ValueError(
                "FCOS needs one stride per level and one size limit less: MODEL.FCOS.IN_FEATURES, FPN_STRIDES and "
                f"SIZES_OF_INTEREST have {len(in_features)}, {len(strides)} and {len(sizes_of_interest)} entries."
            )
        check_choice("MODEL.FCOS.BOX_QUALITY", box_quality, ("ctrness", "iou"))
        check_choice("MODEL.FCOS.LOSS_NORMALIZER_CLS", cls_normalizer, ("fg", "moving_fg", "all"))
        self.fcos_head = fcos_head
        self.in_features = list(in_features)
        self.strides = list(strides)
        self.num_classes = num_classes
        self.level_ranges = level_ranges(sizes_of_interest)
        self.center_radius = center_radius
        self.box_quality = box_quality
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.cls_loss_weight = cls_loss_weight
        self.cls_normalizer = cls_normalizer
        self.loc_loss_type = loc_loss_type
        self.thresh_with_ctr = thresh_with_ctr
        self.nms_thresh = nms_thresh
        self.train_limits = train_limits or DetectionLimits()
        self.test_limits = test_limits or DetectionLimits()
        self.yield_proposal = yield_proposal
        # Restarts on resume, as in the released code.
        self.register_buffer("moving_num_fg", torch.tensor(100.0), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Args: input_shape: of the backbone's features."""
        node = cfg.MODEL.FCOS
        strides = level_strides(node.IN_FEATURES, input_shape)
        return {
            "fcos_head": FCOSHead(cfg, [input_shape[name] for name in node.IN_FEATURES]),
            "in_features": node.IN_FEATURES,
            "strides": derive("MODEL.FCOS.FPN_STRIDES", node.FPN_STRIDES, strides),
            "num_classes": node.NUM_CLASSES,
            "sizes_of_interest": node.SIZES_OF_INTEREST,
            "center_radius": node.POS_RADIUS if node.CENTER_SAMPLE else None,
            "box_quality": node.BOX_QUALITY,
            "focal_alpha": node.LOSS_ALPHA,
            "focal_gamma": node.LOSS_GAMMA,
            "cls_loss_weight": node.LOSS_WEIGHT_CLS,
            "cls_normalizer": node.LOSS_NORMALIZER_CLS,
            "loc_loss_type": node.LOC_LOSS_TYPE,
            "thresh_with_ctr": node.THRESH_WITH_CTR,
            "nms_thresh": node.NMS_TH,
            "train_limits": DetectionLimits(node.INFERENCE_TH_TRAIN, node.PRE_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TRAIN),
            "test_limits": DetectionLimits(node.INFERENCE_TH_TEST, node.PRE_NMS_TOPK_TEST, _max_detections(cfg)),
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
        top_module: nn.Module | None = None,
    ) -> tuple[dict | list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: for their unpadded sizes.
            features: name -> (N, C, H, W).
            gt_instances: with gt_boxes and gt_classes; needed in training.
            top_module: applied to the box tower's output of every level; its output (N, D, H, W) is returned
                for each positive (training) or detection; a 3x3 convolution runs only there.

        Returns:
            In training (results, losses): results holds "positives" (`Positives`) and, with `yield_proposal`,
            "proposals" (list of `Instances`).
            In inference the detections, `Instances` per image, see `decode_level`, and no losses.
        """
        outputs = self.fcos_head([features[name] for name in self.in_features])
        logits, reg, ctrness = ([at_least_float32(x) for x in xs] for xs in outputs[:3])
        outputs = FCOSOutputs(logits, reg, ctrness, outputs.box_features)
        if not self.training:
            return self.detect(outputs, images.image_sizes, self.test_limits, top_module), {}
        if gt_instances is None:
            raise ValueError('FCOS needs ground truth in training: every input needs "instances".')
        positives, losses = self.losses(outputs, gt_instances, top_module)
        results: dict[str, Any] = {"positives": positives}
        if self.yield_proposal:
            with torch.no_grad():
                results["proposals"] = self.detect(outputs, images.image_sizes, self.train_limits, top_module)
        return results, losses

    def locations(self, outputs: FCOSOutputs) -> list[Tensor]:
        """Image points (H * W, 2) of every level's cells, in pixels."""
        return [
            level_locations(logits.shape[-2], logits.shape[-1], stride, logits.device)
            for logits, stride in zip(outputs.logits, self.strides)
        ]

    @torch.no_grad()
    def label_locations(self, outputs: FCOSOutputs, gt_instances: list[Instances]) -> tuple[Tensor, Tensor, Tensor]:
        """Targets of all N * R locations: level by level, in each level image by image, in each image row by row.

        Returns:
            labels (N * R,), regression targets (N * R, 4) in strides, and the index (N * R,) of the object in the
            batch-wide list of objects, see `fcos_targets`.
        """
        locations = self.locations(outputs)
        sizes = [len(points) for points in locations]
        points = cat(locations)
        strides = torch.cat([points.new_full((n,), s) for n, s in zip(sizes, self.strides)])
        ranges = torch.cat([points.new_tensor(r).expand(n, 2) for n, r in zip(sizes, self.level_ranges)])
        per_image, num_objects = [], 0
        for gt in gt_instances:
            labels, distances, index = fcos_targets(
                points,
                strides,
                ranges,
                gt.gt_boxes.tensor,
                gt.gt_classes,
                num_classes=self.num_classes,
                center_radius=self.center_radius,
            )
            if len(gt) > 0:
                index = index + num_objects
            num_objects += len(gt)
            per_image.append([x.split(sizes) for x in (labels, distances, index)])
        # (image, target, level) -> target: levels, then images.
        return tuple(
            cat([image[target][level] for level in range(len(sizes)) for image in per_image]) for target in range(3)
        )

    def losses(
        self, outputs: FCOSOutputs, gt_instances: list[Instances], top_module: nn.Module | None = None
    ) -> tuple[Positives, dict[str, Tensor]]:
        """Losses `loss_fcos_cls`, `loss_fcos_loc` and `loss_fcos_ctr` or `loss_fcos_iou`, and the positives."""
        labels, reg_targets, gt_inds = self.label_locations(outputs, gt_instances)
        logits = cat([_flatten(x) for x in outputs.logits])
        pos_inds = (labels != self.num_classes).nonzero(as_tuple=True)[0]
        num_fg = mean_count(torch.tensor(len(pos_inds), device=logits.device))

        target = torch.zeros_like(logits)
        target[pos_inds, labels[pos_inds]] = 1
        cls_loss = sigmoid_focal_loss(logits, target, self.focal_alpha, self.focal_gamma, reduction="sum")
        losses = {"loss_fcos_cls": self.cls_loss_weight * cls_loss / self._cls_normalizer(num_fg, len(labels))}

        reg = cat([_flatten(x) for x in outputs.reg])[pos_inds]
        ctrness = cat([_flatten(x) for x in outputs.ctrness])[pos_inds, 0]
        reg_targets = reg_targets[pos_inds]
        gt_ctrs = ctrness_targets(reg_targets)
        loss_denorm = reduce_mean(gt_ctrs.sum()).clamp(min=1e-6)
        iou, giou = smoothed_ious(reg, reg_targets)
        loc_loss = location_loss(iou, giou, self.loc_loss_type)
        if self.box_quality == "ctrness":
            losses["loss_fcos_loc"] = (gt_ctrs * loc_loss).sum() / loss_denorm
            losses["loss_fcos_ctr"] = _bce_sum(ctrness, gt_ctrs) / num_fg
        else:
            losses["loss_fcos_loc"] = loc_loss.sum() / num_fg
            losses["loss_fcos_iou"] = _bce_sum(ctrness, iou.detach()) / num_fg

        level_sizes = torch.tensor([x.shape[0] * x.shape[2] * x.shape[3] for x in outputs.logits], device=labels.device)
        levels = torch.arange(len(level_sizes), device=labels.device).repeat_interleave(level_sizes)
        top_feats = top_features(outputs.box_features, top_module, pos_inds) if top_module is not None else None
        positives = Positives(
            pos_inds=pos_inds,
            gt_inds=gt_inds[pos_inds],
            levels=levels[pos_inds],
            reg_targets=reg_targets,
            gt_ctrs=gt_ctrs,
            loss_denorm=loss_denorm,
            top_feats=top_feats,
        )
        return positives, losses

    def detect(
        self,
        outputs: FCOSOutputs,
        image_sizes: list[tuple[int, int]],
        limits: DetectionLimits,
        top_module: nn.Module | None = None,
    ) -> list[Instances]:
        """Detections of every image, see `decode_level`, `select_detections` and `add_top_features`."""
        locations = self.locations(outputs)
        detections = []
        for i, image_size in enumerate(image_sizes):
            candidates = [
                decode_level(
                    locations[level],
                    outputs.logits[level][i],
                    outputs.reg[level][i],
                    outputs.ctrness[level][i],
                    stride=stride,
                    level=level,
                    image_size=image_size,
                    score_thresh=limits.score_thresh,
                    thresh_with_ctr=self.thresh_with_ctr,
                    topk=limits.pre_nms_topk,
                )
                for level, stride in enumerate(self.strides)
            ]
            detections.append(
                select_detections(Instances.cat(candidates), nms_thresh=self.nms_thresh, topk=limits.post_nms_topk)
            )
        if top_module is not None:
            add_top_features(detections, outputs.box_features, self.strides, top_module)
        return detections

    def _cls_normalizer(self, num_fg: Tensor, num_locations: int) -> Tensor:
        if self.cls_normalizer == "moving_fg":
            self.moving_num_fg.mul_(0.9).add_(0.1 * num_fg)
            return self.moving_num_fg.clone()
        if self.cls_normalizer == "all":
            return mean_count(num_fg.new_tensor(num_locations))
        return num_fg


def _max_detections(cfg: CfgNode) -> int:
    """TEST.DETECTIONS_PER_IMAGE if it is not Detectron2's default, else the number of the authors' recipes."""
    wanted = cfg.TEST.DETECTIONS_PER_IMAGE
    return cfg.MODEL.FCOS.POST_NMS_TOPK_TEST if wanted == _DEFAULT_DETECTIONS else wanted


def _flatten(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * H * W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _bce_sum(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="sum")
