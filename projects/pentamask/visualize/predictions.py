"""Draws predictions into images and video frames with Detectron2's visualizers."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.colormap import colormap
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib import rc_context

_MAX_CLASSES = 10_000


@contextmanager
def literal_text() -> Iterator[None]:
    """Within, or in a function that it decorates, matplotlib takes no text for a formula: a class may be called $x$."""
    with rc_context({"text.parse_math": False}):
        yield


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


def draw_frame(visualizer: VideoVisualizer, frame: np.ndarray, predictions: dict) -> np.ndarray:
    """A frame of a video with its predictions; instances keep their colours from frame to frame.

    Args:
        visualizer: the same one for all frames of a video, in order.
        frame: (H, W, 3) uint8, RGB.
        predictions: as in `draw_predictions`.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    if "panoptic_seg" in predictions:
        id_map, segments = predictions["panoptic_seg"]
        output = visualizer.draw_panoptic_seg_predictions(frame, id_map.cpu(), segments)
    elif "instances" in predictions:
        output = visualizer.draw_instance_predictions(frame, predictions["instances"].to("cpu"))
    else:
        output = visualizer.draw_sem_seg(frame, predictions["sem_seg"].argmax(dim=0).cpu())
    return output.get_image()
