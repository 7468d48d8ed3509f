"""What an exported file says of itself, for the runner: names and values in JSON's types."""

from typing import Any

from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from omegaconf import DictConfig

from pentamask import __version__
from pentamask.data.augmentation import OpenCVResizeShortestEdge
from pentamask.data.mapper import MaskDatasetMapper
from pentamask.data.panoptic import find_metadata

from .exportable import Exportable


def describe(
    model: Any, module: Exportable, cfg: CfgNode | DictConfig, *, config_name: str, size: tuple[int, int] | None
) -> dict[str, Any]:
    """The metadata of a file, see docs/deploy/README.md.

    Args:
        model: that is exported.
        module: made of it.
        cfg: its config: colours and resizing of pictures, names of classes.
        config_name: to write down.
        size: (height, width) of the only pictures that the file takes, or None.

    Raises:
        ValueError: the test loader does something to pictures that a runner does not know.
    """
    if isinstance(cfg, CfgNode):
        mapper, names = MaskDatasetMapper(cfg, is_train=False), cfg.DATASETS.TEST
    else:
        mapper, names = instantiate(cfg.dataloader.test.mapper), cfg.dataloader.test.dataset.names
    dataset = find_metadata(names if isinstance(names, str) else next(iter(names), "__unused"))
    ids = dataset.get("thing_dataset_id_to_contiguous_id") or {}
    return {
        "pentamask_version": __version__,
        "config": config_name,
        "model": type(model).__name__,
        "image_format": _colours(mapper.image_format),
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "resize": _resize_rule(mapper),
        "min_size": module.inference.min_size,
        "size": list(size) if size else None,
        "stretches": False,
        "thing_classes": list(dataset.get("thing_classes") or []),
        "stuff_classes": list(dataset.get("stuff_classes") or []),
        "thing_dataset_ids": [dataset_id for dataset_id, _ in sorted(ids.items(), key=lambda item: item[1])],
        "mask_kind": module.mask_kind,
        "detections": module.detections,
        "batch": module.batch,
        "max_detections": module.inference.max_detections,
        **module.inference.description(),
    }


def _colours(image_format: str) -> str:
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"INPUT.FORMAT {image_format} cannot be exported: the runner gives RGB or BGR.")
    return image_format


def _resize_rule(mapper: DatasetMapper) -> dict[str, Any]:
    """How pictures are resized before the model."""
    steps = [step for step in mapper.augmentations.augs if not isinstance(step, T.NoOpTransform)]
    interpolation = "opencv" if any(isinstance(step, OpenCVResizeShortestEdge) for step in steps) else "pil"
    if not steps:
        return {"rule": "none", "interpolation": interpolation}
    step = steps[0]
    if len(steps) == 1 and isinstance(step, T.ResizeShortestEdge):
        size, max_size = step.short_edge_length[0], step.max_size
        if size == 0:
            return {"rule": "none", "interpolation": interpolation}
        return {"rule": "shortest_edge", "size": size, "max_size": max_size, "interpolation": interpolation}
    if len(steps) == 1 and isinstance(step, T.Resize):
        return {"rule": "exact", "height": step.shape[0], "width": step.shape[1], "interpolation": interpolation}
    raise ValueError(
        f"The test loader changes pictures by {', '.join(type(step).__name__ for step in steps)}; a runner knows "
        "ResizeShortestEdge and Resize: change the mapper's augmentations."
    )
