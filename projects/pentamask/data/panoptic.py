"""Segments of things and stuff, from Detectron2's two forms of panoptic datasets, as training instances.

"standard": a PNG of segment ids and `segments_info`. "separated": instance annotations, and a map of semantic labels
in which 0 stands for any thing. Both give one list; its labels are things first, then stuff, without gaps.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, polygons_to_bitmask


@dataclass(frozen=True)
class PanopticLabels:
    """How a dataset numbers its classes.

    Attributes:
        thing_ids, stuff_ids: contiguous ids of the classes, in order. The label of a class is its place in both lists,
            things first.
    """

    thing_ids: tuple[int, ...]
    stuff_ids: tuple[int, ...]

    @classmethod
    def of(cls, metadata: Metadata) -> "PanopticLabels":
        """From a dataset's metadata; without a map of stuff ids there is no stuff."""
        things = metadata.get("thing_dataset_id_to_contiguous_id")
        thing_ids = range(len(metadata.get("thing_classes", ()))) if things is None else sorted(things.values())
        # Dataset id 0 is the "things" of the separated form.
        stuff = metadata.get("stuff_dataset_id_to_contiguous_id") or {}
        return cls(tuple(thing_ids), tuple(sorted(label for i, label in stuff.items() if i != 0)))

    @classmethod
    def of_dataset(cls, name: str | Sequence[str]) -> "PanopticLabels":
        """Those of a registered dataset, or of several that must agree.

        Raises:
            ValueError: they number their classes differently.
        """
        first, *others = [name] if isinstance(name, str) else name
        labels = cls.of(load_metadata(first))
        for other in others:
            found = cls.of(load_metadata(other))
            if found != labels:
                raise ValueError(
                    f"{first!r} and {other!r} cannot be trained on together, they number their classes differently: "
                    f"things {labels.thing_ids} and stuff {labels.stuff_ids}, but things {found.thing_ids} and stuff "
                    f"{found.stuff_ids}."
                )
        return labels

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The contiguous id of every label."""
        return (*self.thing_ids, *self.stuff_ids)

    def label(self, contiguous_id: int, is_thing: bool) -> int:
        """The label of a class."""
        if is_thing:
            return self.thing_ids.index(contiguous_id)
        return len(self.thing_ids) + self.stuff_ids.index(contiguous_id)


def load_metadata(name: str) -> Metadata:
    """The metadata of a dataset, which is loaded first if only its files say which classes it has."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and name in DatasetCatalog:
        DatasetCatalog.get(name)
    return metadata


def find_metadata(name: str) -> Metadata:
    """As `load_metadata`, for results only: a dataset that cannot be loaded is logged, and then has no class names."""
    try:
        return load_metadata(name)
    except (OSError, KeyError, ValueError, TypeError, AssertionError) as error:
        message = "Dataset %r cannot be loaded here (%s): its classes are known by their numbers only."
        logging.getLogger(__name__).info(message, name, error)
        return MetadataCatalog.get(name)


def dataset_category_ids(name: str | Sequence[str]) -> tuple[int, ...] | None:
    """The contiguous ids of the classes, things first, of the first dataset that says them; None if none does."""
    for each in [name] if isinstance(name, str) else name:
        labels = PanopticLabels.of(find_metadata(each))
        if labels.category_ids:
            return labels.category_ids
    return None


@dataclass
class Segment:
    """One thing or one kind of stuff: label, mask (H, W) uint8, box xyxy in pixels."""

    label: int
    mask: np.ndarray
    box: np.ndarray


def segments_from_png(png: np.ndarray, segments_info: Sequence[dict], labels: PanopticLabels) -> list[Segment]:
    """Segments of the standard form, without crowds.

    Args:
        png: (H, W, 3) uint8 RGB; the id is R + 256 G + 65536 B.
        segments_info: of Detectron2's record; the box is taken from the mask if it has none.
        labels: numbering of the classes.
    """
    ids = segment_ids(png)
    segments = []
    for info in segments_info:
        if info.get("iscrowd", 0):
            continue
        label = labels.label(info["category_id"], info["isthing"])
        mask = (ids == info["id"]).astype(np.uint8)
        box = BoxMode.convert(info["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) if "bbox" in info else _box(mask)
        segments.append(Segment(label, mask, np.asarray(box, dtype=float)))
    return segments


def segment_ids(png: np.ndarray) -> np.ndarray:
    """The ids (H, W) int64 of an image of segments (H, W, 3) uint8, RGB: R + 256 G + 65536 B."""
    return png.astype(np.int64) @ np.array([1, 256, 65536])


def segments_from_annotations(
    annotations: Sequence[dict], sem_seg: np.ndarray | None, size: tuple[int, int], labels: PanopticLabels
) -> list[Segment]:
    """Segments of the separated form, without crowds.

    Args:
        annotations: Detectron2's instance annotations with polygons or RLE.
        sem_seg: (H, W) contiguous ids of stuff, or None.
        size: (H, W) of the image.
        labels: numbering of the classes.
    """
    segments = []
    for annotation in annotations:
        if annotation.get("iscrowd", 0):
            continue
        masks = annotation["segmentation"]
        mask = mask_util.decode(masks) if isinstance(masks, dict) else polygons_to_bitmask(masks, *size)
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        label = labels.label(annotation["category_id"], is_thing=True)
        segments.append(Segment(label, mask.astype(np.uint8), np.asarray(box, dtype=float)))
    if sem_seg is None:
        return segments
    for category in labels.stuff_ids:
        mask = np.equal(sem_seg, category).astype(np.uint8)
        if mask.any():
            segments.append(Segment(labels.label(category, is_thing=False), mask, _box(mask)))
    return segments


def segments_to_instances(
    segments: Sequence[Segment], transforms: T.Transform, image_size: tuple[int, int]
) -> Instances:
    """The segments after an augmentation, as in the released code: boxes are transformed, not taken from the masks.

    Args:
        segments: of the image as it is stored.
        transforms: what was done to the image.
        image_size: (H', W') after it.

    Returns:
        gt_classes, gt_boxes and gt_masks (`BitMasks`) of the segments whose box has an area inside the image. A crop
        may leave a mask empty.
    """
    height, width = image_size
    kept, boxes = [], []
    for segment in segments:
        box = transforms.apply_box(segment.box[None])[0].clip(0, [width, height, width, height])
        if box[2] > box[0] and box[3] > box[1]:
            kept.append(segment)
            boxes.append(box)
    masks = [torch.from_numpy(transforms.apply_segmentation(x.mask).astype(bool)) for x in kept]
    instances = Instances(image_size)
    instances.gt_classes = torch.tensor([x.label for x in kept], dtype=torch.int64)
    instances.gt_boxes = Boxes(torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4)))
    instances.gt_masks = BitMasks(torch.stack(masks) if masks else torch.zeros((0, *image_size), dtype=torch.bool))
    return instances


def _box(mask: np.ndarray) -> np.ndarray:
    """The tightest xyxy box of a mask (H, W) uint8; of an empty one, zeros."""
    return BitMasks(torch.from_numpy(mask)[None]).get_bounding_boxes().tensor[0].double().numpy()
