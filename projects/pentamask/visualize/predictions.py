"""Draws predictions: into images with Detectron2's visualizer, into frames of a video quickly."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib import rc_context
from pentamask_runner import Result
from pentamask_runner.output import draw

_MAX_CLASSES = 10_000
_LONGEST_NAME = 24  # characters


@contextmanager
def literal_text() -> Iterator[None]:
    """Within, or in a function that it decorates, matplotlib takes no text for a formula: a class may be called $x$."""
    with rc_context({"text.parse_math": False}):
        yield


def shortened(name: str) -> str:
    """The name of a class, cut where it would take the room of its neighbours in a figure."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def with_class_names(metadata: Metadata) -> Metadata:
    """Metadata in which classes without a name are called by their number, and those without a colour have one."""
    numbers = [str(label) for label in range(_MAX_CLASSES)]
    colors = list(itertools.islice(itertools.cycle(colormap(rgb=True).astype(int).tolist()), _MAX_CLASSES))
    defaults = {"thing_classes": numbers, "stuff_classes": numbers, "thing_colors": colors, "stuff_colors": colors}
    return Metadata(**defaults | metadata.as_dict())


@literal_text()
def draw_predictions(
    image: np.ndarray,
    predictions: dict,
    metadata: Metadata,
    *,
    scale: float = 1.0,
    color_mode: ColorMode = ColorMode.IMAGE,
) -> np.ndarray:
    """An image with masks, boxes, class names and scores; of a panoptic model with its segments.

    Args:
        image: (H, W, 3) uint8, RGB.
        predictions: a model's output for it: any of "panoptic_seg", "sem_seg", "instances".
        metadata: of the dataset: class names and colours.
        scale: output size by input size.
        color_mode: IMAGE gives every instance a colour, SEGMENTATION every class.

    Returns:
        (H * scale, W * scale, 3) uint8, RGB.
    """
    visualizer = Visualizer(image, metadata, scale=scale, instance_mode=color_mode)
    if "panoptic_seg" in predictions:
        id_map, segments = predictions["panoptic_seg"]
        visualizer.draw_panoptic_seg(id_map.cpu(), segments)
    else:
        if "sem_seg" in predictions:
            visualizer.draw_sem_seg(predictions["sem_seg"].argmax(dim=0).cpu())
        if "instances" in predictions:
            visualizer.draw_instance_predictions(predictions["instances"].to("cpu"))
    return visualizer.get_output().get_image()


def draw_frame(frame: np.ndarray, predictions: dict, metadata: Metadata) -> np.ndarray:
    """A frame of a video with its predictions, as `pentamask_runner` draws them.

    That takes a tenth of the time of Detectron2's `VideoVisualizer`, which takes the processor away from the model.

    Args:
        frame: (H, W, 3) uint8, RGB.
        predictions: as `VideoTracker` gives them: "panoptic_seg", else "instances", else "sem_seg".
        metadata: of the dataset: names of the classes.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    result, identities = Result(np.zeros((0, 4)), np.zeros(0), np.zeros(0)), None
    if "panoptic_seg" in predictions:
        id_map, segments = predictions["panoptic_seg"]
        result.panoptic = id_map.numpy(), segments
        identities = [segment.get("track_id") for segment in segments]
    elif "instances" in predictions:
        found = predictions["instances"]
        masks = found.pred_masks.numpy() if found.has("pred_masks") else None
        result = Result(found.pred_boxes.tensor.numpy(), found.scores.numpy(), found.pred_classes.numpy(), masks)
        identities = found.ID.tolist()
    else:
        labels = predictions["sem_seg"].argmax(dim=0).cpu().numpy()
        segments = [{"id": label, "category_id": label, "isthing": False} for label in np.unique(labels).tolist()]
        result.panoptic = labels, segments
    return draw(frame, result, metadata.thing_classes, metadata.stuff_classes, identities)
