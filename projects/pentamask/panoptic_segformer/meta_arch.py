"""Panoptic SegFormer: thing and stuff queries whose attention to the image becomes their masks."""

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, GeneralizedRCNN, build_backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from torch import Tensor, nn

from pentamask.checkpoint.key_map import register_key_rules
from pentamask.common import at_least_float32, register
from pentamask.data.panoptic import PanopticLabels, find_metadata
from pentamask.inputs import register_input_check
from pentamask.plugin import ClassCount

from .config import add_panoptic_segformer_config
from .criterion import (
    Counts,
    DecodedMasks,
    Stuff,
    location_losses,
    match_locations,
    match_masks,
    stuff_losses,
    thing_mask_losses,
)
from .deformable_attention import Memory
from .encoder import DeformableEncoder
from .explain import explain
from .graph import PanopticSegFormerGraph
from .key_rules import KEY_RULES
from .location_decoder import LocationDecoder, Locations, class_branch, copies_of, output_boxes
from .mask_decoder import MaskDecoder
from .matcher import Things, Weights
from .merging import MergeOptions, ScoredMasks, merge, score_masks
from .releases import RELEASES
from .segment_targets import SegmentTargetMaker


@register(META_ARCH_REGISTRY)
class PanopticSegFormer(nn.Module):
    """Panoptic SegFormer (arXiv 2109.03814): panoptic, instance and semantic segmentation with one model.

    Labels: things are 0 ... T - 1, stuff T ... T + S - 1, in the order of the dataset's contiguous ids.
    """

    add_config = staticmethod(add_panoptic_segformer_config)
    key_rules = KEY_RULES
    class_counts = (
        ClassCount(
            "thing_classes",
            "MODEL.PANOPTIC_SEGFORMER.NUM_THING_CLASSES",
            lazy_keys=("num_thing_classes", "location_decoder.num_classes"),
        ),
        ClassCount(
            "stuff_only_classes",
            "MODEL.PANOPTIC_SEGFORMER.NUM_STUFF_CLASSES",
            lazy_keys=("num_stuff_classes",),
        ),
    )
    score_thresholds = (
        "MODEL.PANOPTIC_SEGFORMER.MERGE.QUALITY_THRESH_THINGS",
        "MODEL.PANOPTIC_SEGFORMER.MERGE.QUALITY_THRESH_STUFF",
    )
    dense_parts = ("backbone", "encoder", "location_decoder")
    stages: Mapping[str, str] = {
        "encoder": "neck",
        "location_decoder": "heads",
        "thing_mask_decoder": "masks",
        "stuff_mask_decoder": "masks",
    }
    releases = RELEASES
    explain = explain
    graph = PanopticSegFormerGraph

    # Normalising, padding and batching. None of the released backbones asks for padding: there it is to the largest
    # image of the batch only.
    preprocess_image = GeneralizedRCNN.preprocess_image
    _move_to_current_device = GeneralizedRCNN._move_to_current_device

    pixel_mean: Tensor
    pixel_std: Tensor
    category_ids: Tensor
    semantic_channels: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: list[str],
        encoder: DeformableEncoder,
        location_decoder: LocationDecoder,
        thing_mask_decoder: MaskDecoder,
        stuff_mask_decoder: MaskDecoder,
        num_thing_classes: int,
        num_stuff_classes: int,
        channels: int,
        weights: Weights,
        max_things: int,
        merge_options: MergeOptions,
        tasks: tuple[str, ...],
        pixel_mean: list[float],
        pixel_std: list[float],
        category_ids: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            backbone: Detectron2 backbone.
            in_features: its maps of strides 8, 16 and 32.
            encoder, location_decoder, thing_mask_decoder, stuff_mask_decoder: the parts.
            num_thing_classes, num_stuff_classes: T, S.
            channels: C, of all queries.
            weights: of the losses and of the matching.
            max_things: most things that are kept in an image.
            merge_options: see `merge`.
            tasks: what inference returns, of "panoptic_seg", "instances", "sem_seg".
            pixel_mean, pixel_std: per channel of the input image.
            category_ids: contiguous ids of the T + S classes in the datasets, which the results name; None for 0, 1,
                ....
        """
        super().__init__()
        self.backbone = backbone
        self.in_features = list(in_features)
        self.encoder = encoder
        self.location_decoder = location_decoder
        self.thing_mask_decoder = thing_mask_decoder
        self.stuff_mask_decoder = stuff_mask_decoder
        # One query per class: content, then position.
        self.stuff_query = nn.Embedding(num_stuff_classes, 2 * channels)
        branches = copies_of(class_branch(channels, 1), len(stuff_mask_decoder.blocks))
        self.cls_stuff_branches = nn.ModuleList(branches)
        self.num_thing_classes = num_thing_classes
        self.num_stuff_classes = num_stuff_classes
        self.weights = weights
        self.max_things = max_things
        self.merge_options = merge_options
        self.tasks = tuple(tasks)
        if category_ids is None:
            category_ids = range(num_thing_classes + num_stuff_classes)
        # On the host as well, so that naming a segment does not wait for the GPU.
        self.host_category_ids = [int(number) for number in category_ids]
        semantic_channels = _semantic_channels(self.host_category_ids, num_thing_classes)
        self.num_semantic_channels = max(semantic_channels) + 1
        self.register_buffer("category_ids", torch.tensor(self.host_category_ids, dtype=torch.int64), False)
        self.register_buffer("semantic_channels", torch.tensor(semantic_channels, dtype=torch.int64), False)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        register_key_rules(self, self.key_rules)
        register_input_check(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.PANOPTIC_SEGFORMER
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        decoder = {
            "channels": node.CHANNELS,
            "hidden_channels": node.FEEDFORWARD_CHANNELS,
            "num_heads": node.NUM_HEADS,
            "num_levels": len(node.IN_FEATURES),
        }
        return {
            "backbone": backbone,
            "in_features": node.IN_FEATURES,
            "encoder": DeformableEncoder(cfg, _check_strides(shape, node.IN_FEATURES)),
            "location_decoder": LocationDecoder(cfg),
            "thing_mask_decoder": MaskDecoder(num_blocks=node.NUM_THING_BLOCKS, self_attention=False, **decoder),
            "stuff_mask_decoder": MaskDecoder(num_blocks=node.NUM_STUFF_BLOCKS, self_attention=True, **decoder),
            "num_thing_classes": node.NUM_THING_CLASSES,
            "num_stuff_classes": node.NUM_STUFF_CLASSES,
            "category_ids": _category_ids(cfg),
            "channels": node.CHANNELS,
            "weights": Weights(node.CLASS_WEIGHT, node.L1_WEIGHT, node.GIOU_WEIGHT, node.DICE_WEIGHT),
            "max_things": cfg.TEST.DETECTIONS_PER_IMAGE,
            "merge_options": MergeOptions(**{key.lower(): value for key, value in node.MERGE.items()}),
            "tasks": _tasks(node.TEST),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @classmethod
    def build_target_maker(cls, cfg: CfgNode) -> SegmentTargetMaker:
        """Things and stuff of the first training set."""
        return SegmentTargetMaker(PanopticLabels.of_dataset(cfg.DATASETS.TRAIN))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: Detectron2's input dicts. Training needs "instances" with the segments of things and of
                stuff: gt_classes (labels as above), gt_boxes and gt_masks; the boxes of stuff are not used.

        Returns:
            In training a dict of losses, see `criterion.py`.
            In inference a dict per image: "panoptic_seg" (see `merge`); "instances" with pred_boxes, scores,
            pred_classes and pred_masks (n, height, width) bool, best first; "sem_seg" (T + S, height, width) scores,
            or (1 + S, height, width), things first, if the dataset has one semantic label for all of them.
        """
        images = self.preprocess_image(batched_inputs)
        memory, locations = self.encode(images)
        if self.training:
            return self._losses(batched_inputs, memory, locations)
        sizes = images.image_sizes
        return [
            self._inference(memory, locations, n, size, (x.get("height", size[0]), x.get("width", size[1])))
            for n, (x, size) in enumerate(zip(batched_inputs, sizes))
        ]

    def encode(self, images: ImageList) -> tuple[Memory, Locations]:
        """Everything before the mask decoders, for the whole batch."""
        padded_size, padding = images.tensor.shape[-2:], None
        if any((height, width) != tuple(padded_size) for height, width in images.image_sizes):
            padding = torch.ones((len(images), *padded_size), dtype=torch.bool, device=self.device)
            for n, (height, width) in enumerate(images.image_sizes):
                padding[n, :height, :width] = False
        features = self.backbone(images.tensor)
        memory = self.encoder([features[name] for name in self.in_features], padding)
        return memory, self.location_decoder(memory)

    def decode_stuff(
        self, tokens: Tensor, shapes: list[tuple[int, int]], with_block_masks: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per block the logits (S,) that a class is there, and the masks; arguments as `MaskDecoder`."""
        content, positions = self.stuff_query.weight.chunk(2, dim=1)
        queries, masks = self.stuff_mask_decoder(content, tokens, shapes, positions, with_block_masks)
        logits = [at_least_float32(branch(x)[:, 0]) for branch, x in zip(self.cls_stuff_branches, queries)]
        return logits, masks

    def _losses(self, batched_inputs: list[dict], memory: Memory, locations: Locations) -> dict[str, Tensor]:
        things, stuff = zip(*(self.targets(x) for x in batched_inputs))
        # Matching and losses in full precision, whatever the model runs in.
        with torch.autocast(self.device.type, enabled=False):
            matches = match_locations(locations, things, self.weights)
        decoded = []
        for n, (queries, _) in enumerate(matches[-1]):
            tokens, shapes = memory.image(n, len(self.in_features))
            _, masks = self.thing_mask_decoder(locations.queries[n, queries], tokens, shapes, with_block_masks=True)
            stuff_logits, stuff_masks = self.decode_stuff(tokens, shapes, with_block_masks=True)
            decoded.append(DecodedMasks(masks, stuff_masks, stuff_logits))
        num_things, num_stuff = sum(len(q) for q, _ in matches[-1]), sum(len(gt.classes) for gt in stuff)
        counts = Counts.of(num_things, num_stuff, self.device)
        with torch.autocast(self.device.type, enabled=False):
            mask_matches = [
                match_masks(locations, n, matches[-1][n][0], decoded[n].things[-1], gt, self.weights)
                for n, gt in enumerate(things)
            ]
            return {
                **location_losses(locations, matches, things, self.weights, counts),
                **thing_mask_losses(decoded, mask_matches, things, self.weights, counts),
                **stuff_losses(decoded, things, stuff, self.weights, counts),
            }

    def targets(self, x: dict) -> tuple[Things, Stuff]:
        """The ground truth of one input, split into things and stuff."""
        instances = x["instances"].to(self.device)
        classes = instances.gt_classes
        total = self.num_thing_classes + self.num_stuff_classes
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < total:
            raise ValueError(
                f"gt_classes of {x.get('file_name', 'an image')} are in {int(classes.min())} ... {int(classes.max())}, "
                f"but there are {self.num_thing_classes} thing and {self.num_stuff_classes} stuff classes: set "
                "MODEL.PANOPTIC_SEGFORMER.NUM_THING_CLASSES and NUM_STUFF_CLASSES."
            )
        if not isinstance(instances.gt_masks, BitMasks):
            raise ValueError("PanopticSegFormer learns from bitmasks: set INPUT.MASK_FORMAT bitmask.")
        boxes, masks = instances.gt_boxes.tensor, instances.gt_masks.tensor
        is_thing = classes < self.num_thing_classes
        things = Things(classes=classes[is_thing], boxes=boxes[is_thing], masks=masks[is_thing])
        return things, Stuff(classes=classes[~is_thing] - self.num_thing_classes, masks=masks[~is_thing])

    def _inference(
        self,
        memory: Memory,
        locations: Locations,
        n: int,
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> dict:
        """The results for image `n` of the batch."""
        tokens, shapes = memory.image(n, len(self.in_features))
        class_scores, queries, labels = self.select_things(locations, n)
        masks = self.thing_mask_decoder(locations.queries[n, queries], tokens, shapes)[1][-1]
        result, scored = {}, None
        if "instances" in self.tasks:
            scored = score_masks(masks, class_scores, output_size)
            boxes = output_boxes(locations.boxes[-1, n, queries], image_size, output_size)
            result["instances"] = instances_from_masks(scored, boxes, self.category_ids[labels])
        if self.tasks == ("instances",):
            return result
        stuff_logits, (stuff_masks,) = self.decode_stuff(tokens, shapes)
        stuff_scores = stuff_logits[-1].sigmoid()
        if scored is not None:
            scored = scored.join(score_masks(stuff_masks, stuff_scores, output_size))
        segments = (
            torch.cat([masks, stuff_masks]),
            torch.cat([class_scores, stuff_scores]),
            torch.cat([labels, torch.arange(self.num_stuff_classes, device=self.device) + self.num_thing_classes]),
            output_size,
        )
        if "panoptic_seg" in self.tasks:
            result["panoptic_seg"] = self._panoptic_seg(*segments, scored)
        if "sem_seg" in self.tasks:
            result["sem_seg"] = self._sem_seg(*segments)
        return result

    def select_things(self, locations: Locations, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best classes of the queries of image `n`, best first: class scores, numbers of the queries, labels."""
        class_scores, index = locations.logits[-1, n].sigmoid().flatten().sort(descending=True, stable=True)
        class_scores, index = class_scores[: self.max_things], index[: self.max_things]
        return class_scores, index // self.num_thing_classes, index % self.num_thing_classes

    def _panoptic_seg(
        self, masks: Tensor, class_scores: Tensor, labels: Tensor, size: tuple[int, int], scored: ScoredMasks | None
    ) -> tuple[Tensor, list[dict]]:
        """`merge`, with the dataset's ids of the classes."""
        ids, infos = merge(masks, class_scores, labels, size, self.num_thing_classes, self.merge_options, scored)
        for info in infos:
            info["category_id"] = self.host_category_ids[info["category_id"]]
        return ids, infos

    def _sem_seg(self, masks: Tensor, class_scores: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """For every semantic class the largest class score times mask value of its masks: (classes, height, width)."""
        scores = masks.new_zeros((self.num_semantic_channels, *masks.shape[1:]))
        index = self.semantic_channels[labels][:, None, None].expand_as(masks)
        scores.scatter_reduce_(0, index, class_scores[:, None, None] * masks, "amax")
        return sem_seg_postprocess(scores, tuple(masks.shape[1:]), *size)


def _semantic_channels(category_ids: list[int], num_things: int) -> list[int]:
    """Each label's channel of the semantic scores; the separated form of datasets has one, 0, for all things."""
    things, stuff = category_ids[:num_things], category_ids[num_things:]
    return [0] * len(things) + stuff if set(things) & set(stuff) else category_ids


def instances_from_masks(scored: ScoredMasks, boxes: Tensor, labels: Tensor) -> Instances:
    """The things as Detectron2's `Instances`, best first; boxes (K, 4) xyxy in pixels, labels (K,)."""
    order = scored.scores.argsort(descending=True, stable=True)
    instances = Instances(tuple(scored.inside.shape[1:]))
    instances.pred_boxes = Boxes(boxes[order])
    instances.scores = scored.scores[order]
    instances.pred_classes = labels[order]
    instances.pred_masks = scored.inside[order]
    return instances


def _check_strides(shape: dict[str, ShapeSpec], in_features: list[str]) -> dict[str, ShapeSpec]:
    missing = set(in_features) - set(shape)
    if missing:
        raise ValueError(
            f"MODEL.PANOPTIC_SEGFORMER.IN_FEATURES names {', '.join(sorted(missing))}, but the backbone returns "
            f"{', '.join(shape)}: change it or the backbone's OUT_FEATURES."
        )
    return shape


def _tasks(node: CfgNode) -> tuple[str, ...]:
    wanted = {"panoptic_seg": node.PANOPTIC_ON, "instances": node.INSTANCE_ON, "sem_seg": node.SEMANTIC_ON}
    return tuple(name for name, on in wanted.items() if on)


def _category_ids(cfg: CfgNode) -> tuple[int, ...] | None:
    """The contiguous ids of things and stuff in the datasets of `cfg`, if they say so."""
    node = cfg.MODEL.PANOPTIC_SEGFORMER
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        labels = PanopticLabels.of(find_metadata(name))
        if (len(labels.thing_ids), len(labels.stuff_ids)) == (node.NUM_THING_CLASSES, node.NUM_STUFF_CLASSES):
            return labels.category_ids
    return None
