"""From a picture to what an exported model sees in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from .geometry import paste, resize, resize_each
from .metadata import read_metadata
from .panoptic import Panoptic, combine, merge

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


@dataclass
class Result:
    """What was found in a picture of height H and width W, best first.

    Attributes:
        boxes: (n, 4) float32, XYXY in pixels of the picture.
        scores: (n,) float32.
        classes: (n,) int64, index into the model's names.
        masks: (n, H, W) bool; None of a model without masks.
        mask_scores: (n,) float32 of a model that scores its masks.
        panoptic: of a panoptic model the segments' ids (H, W) int32, 0 void, and Detectron2's segments_info.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None = None
    mask_scores: np.ndarray | None = None
    panoptic: Panoptic | None = None

    def select(self, index: np.ndarray) -> "Result":
        """The instances of a mask or index."""
        masks, mask_scores = (None if x is None else x[index] for x in (self.masks, self.mask_scores))
        return Result(self.boxes[index], self.scores[index], self.classes[index], masks, mask_scores, self.panoptic)


def open_session(path: str, provider: str = "cpu", threads: int = 0) -> "onnxruntime.InferenceSession":
    """An onnxruntime session of a file.

    Args:
        path: of the .onnx file.
        provider: "cpu", "cuda", "tensorrt" or "openvino"; what it lacks runs on the next of tensorrt, cuda, cpu.
        threads: of the CPU; 0 for all cores.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: the installed onnxruntime lacks the provider, or cannot load the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"This needs the package onnxruntime: pip install onnxruntime ({error}).") from error
    available = onnxruntime.get_available_providers()
    if PROVIDERS.get(provider) not in available:
        installed = [name for name, full in PROVIDERS.items() if full in available]
        raise ValueError(
            f"This onnxruntime has the providers {', '.join(installed)}, not {provider}: install onnxruntime-gpu for "
            "cuda and tensorrt, onnxruntime-openvino for openvino."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    wanted = [PROVIDERS[provider], *([PROVIDERS["cuda"]] if provider == "tensorrt" else []), PROVIDERS["cpu"]]
    try:
        return onnxruntime.InferenceSession(path, options, list(dict.fromkeys(wanted)))
    except Exception as error:  # its types have nothing in common
        raise ValueError(f"Cannot load {path}: {error}") from error


class Runner:
    """An exported model; everything that it needs to know is in the file.

    Attributes:
        metadata: what the exporter wrote, see docs/deploy/README.md.
        session: onnxruntime's.
    """

    def __init__(
        self, path: str, *, provider: str = "cpu", threads: int = 0, confidence_threshold: float | None = None
    ) -> None:
        """
        Args:
            path: of a file that pentamask exported.
            provider, threads: see `open_session`.
            confidence_threshold: instances and panoptic things of lower score are left out; None for what the model's
                config says, which are all instances that it finds.

        Raises:
            ValueError, ImportError: see `read_metadata` and `open_session`.
        """
        self.session = open_session(path, provider, threads)
        self.metadata = read_metadata(self.session.get_modelmeta().custom_metadata_map, path)
        self._outputs = [output.name for output in self.session.get_outputs()]
        self.confidence_threshold = confidence_threshold

    def __call__(self, picture: str | Image.Image | np.ndarray) -> Result:
        """
        Args:
            picture: file name, Pillow's image, or (H, W, 3) uint8 in RGB.

        Returns:
            What is found above the threshold, at the size of the picture.

        Raises:
            ValueError: it is too small for the model, or onnxruntime fails.
        """
        pixels = read_rgb(picture)
        image, used = self.preprocess(pixels)
        outputs = self.run(image)
        return self.postprocess(outputs, image.shape[1:], used, pixels.shape[:2])

    def preprocess(self, pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """The model's input (3, H', W') uint8 for a picture (H, W, 3) in RGB; what (height, width) of it shows it."""
        height, width = pixels.shape[:2]
        fixed, rule = self.metadata["size"], self.metadata["resize"]
        if fixed and self.metadata["stretches"]:
            used = tuple(fixed)
        elif fixed:
            scale = min(fixed[0] / height, fixed[1] / width)
            used = max(round(height * scale), 1), max(round(width * scale), 1)
        else:
            used = target_size(rule, height, width)
        if min(used) < self.metadata["min_size"] and not fixed:
            raise ValueError(
                f"The picture of {width} x {height} pixels becomes {used[1]} x {used[0]}, but the model takes "
                f"{self.metadata['min_size']} and more: enlarge it or pad it to another shape."
            )
        if self.metadata["image_format"] == "BGR":
            pixels = pixels[:, :, ::-1]
        pixels = resize_picture(pixels, used[0], used[1], rule["interpolation"])
        if fixed and used != tuple(fixed):  # what the model itself pads with is the mean colour, too
            framed = np.empty((*fixed, 3), dtype=np.uint8)
            framed[:] = np.round(self.metadata["pixel_mean"])
            framed[: used[0], : used[1]] = pixels
            pixels = framed
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)), used

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The graph's outputs for its input (3, H', W')."""
        if not self.metadata.get("batch"):
            return dict(zip(self._outputs, self._run_session(image)))
        return self._run_batch([image])[0]

    def _run_session(self, image: np.ndarray) -> list[np.ndarray]:
        try:
            return self.session.run(None, {"image": image})
        except Exception as error:  # its types have nothing in common
            raise ValueError(f"onnxruntime failed on an input of shape {image.shape}: {error}") from error

    def _run_batch(self, images: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Of a file for batches the outputs for up to as many inputs as it takes, all of one size."""
        filled = np.zeros((self.metadata["batch"], *images[0].shape), dtype=np.uint8)
        filled[: len(images)] = images
        outputs = self._run_session(filled)
        return [{name: x[i] for name, x in zip(self._outputs, outputs)} for i in range(len(images))]

    def batch(self, pictures: Sequence[str | Image.Image | np.ndarray]) -> list[Result]:
        """The results for several pictures, in a file for batches (`--batch`) as many at a time as it takes.

        Raises:
            ValueError: the file takes one picture at a time, or the pictures' inputs differ in size.
        """
        size = self.metadata.get("batch")
        if not size:
            raise ValueError("This file takes one picture at a time: export it with --batch N --detections fixed.")
        pixels = [read_rgb(picture) for picture in pictures]
        inputs = [self.preprocess(x) for x in pixels]
        if len({image.shape for image, _ in inputs}) > 1:
            raise ValueError("The pictures of a batch must have one size: sort them, or export with --size H W.")
        outputs: list[dict[str, np.ndarray]] = []
        for start in range(0, len(inputs), size):
            outputs += self._run_batch([image for image, _ in inputs[start : start + size]])
        return [
            self.postprocess(found, image.shape[1:], used, x.shape[:2])
            for found, (image, used), x in zip(outputs, inputs, pixels)
        ]

    def postprocess(
        self, outputs: dict[str, np.ndarray], shape: Sequence[int], used: tuple[int, int], size: tuple[int, int]
    ) -> Result:
        """
        Args:
            outputs: of the graph.
            shape: (H', W') of its input.
            used: what of it shows the picture.
            size: (H, W) of the picture.
        """
        real = outputs["classes"] >= 0  # others fill up a file with a fixed number of detections
        outputs = {name: x[real] if name != "sem_seg" else x for name, x in outputs.items()}
        boxes = self._scaled_boxes(outputs["boxes"], used, size)
        if "merge" in self.metadata:
            return self._from_queries(outputs, boxes, shape, used, size)
        result = Result(boxes, outputs["scores"], outputs["classes"], None, outputs.get("mask_scores"))
        kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        if self.confidence_threshold is not None:
            kept = kept[result.scores[kept] >= self.confidence_threshold]
        result = result.select(kept)
        if "masks" in outputs:
            result.masks = self._masks(outputs["masks"][kept], result.boxes, shape, used, size)
        if "sem_seg" in outputs:
            result.panoptic = self._combined(result, outputs["sem_seg"], shape, used)
        return result

    def _scaled_boxes(self, boxes: np.ndarray, used: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        scale = np.array([size[1] / used[1], size[0] / used[0]] * 2, dtype=np.float32)
        boxes, limit = boxes * scale, np.array([size[1], size[0]] * 2, dtype=np.float32)
        if not self.metadata.get("whole_pixels"):
            return np.clip(boxes, 0, limit)
        low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
        return np.trunc(np.concatenate([np.maximum(low, 0), np.minimum(high, limit[:2])], axis=1))

    def _masks(
        self,
        masks: np.ndarray,
        boxes: np.ndarray,
        shape: Sequence[int],
        used: tuple[int, int],
        size: tuple[int, int],
    ) -> np.ndarray:
        """(n, H, W) bool."""
        if not len(masks):
            return np.zeros((0, *size), dtype=bool)
        if self.metadata["mask_kind"] == "roi":
            return np.stack([paste(mask, box, *size) for mask, box in zip(masks, boxes)])
        return np.stack([x > 0.5 for x in self._pictures(masks, shape, used, size)])

    def _pictures(
        self, maps: np.ndarray, shape: Sequence[int], used: tuple[int, int], size: tuple[int, int]
    ) -> list[np.ndarray]:
        """Maps of the whole input, (H, W) each in the picture."""
        if tuple(shape) == tuple(used):
            return list(resize_each(maps, *size))
        return [resize(x[None, : used[0], : used[1]], *size)[0] for x in resize_each(maps, *shape)]

    def _combined(self, result: Result, sem_seg: np.ndarray, shape: Sequence[int], used: tuple[int, int]) -> Panoptic:
        """Of a model with semantic logits (C, h, w) at a stride of the padded input."""
        assert result.masks is not None
        stride, size = self.metadata["sem_seg_stride"], result.masks.shape[1:]
        best, labels = np.full(size, -np.inf, dtype=np.float32), np.zeros(size, dtype=np.int64)
        for label, logits in enumerate(sem_seg):
            padded = resize(logits[None], logits.shape[0] * stride, logits.shape[1] * stride)
            values = resize(padded[:, : used[0], : used[1]], *size)[0]
            labels, best = np.where(values > best, label, labels), np.maximum(values, best)
        options = dict(self.metadata["combine"])
        if self.confidence_threshold is not None:
            options["instances_score_thresh"] = self.confidence_threshold
        return combine(result.masks, result.scores, result.classes, labels, options)

    def _from_queries(
        self,
        outputs: dict[str, np.ndarray],
        boxes: np.ndarray,
        shape: Sequence[int],
        used: tuple[int, int],
        size: tuple[int, int],
    ) -> Result:
        """Of a model whose masks are of things and stuff: instances by score and quality, and the merged segments."""
        class_scores, labels = outputs["scores"], outputs["classes"]
        maps = self._pictures(outputs["masks"], shape, used, size)
        inside = np.stack([x > 0.5 for x in maps])
        qualities = [(x * pixels).sum(dtype=np.float64) / (pixels.sum() + 1) for x, pixels in zip(maps, inside)]
        scores = class_scores * np.array(qualities, dtype=np.float32) ** 2
        ids = np.array(self.metadata["category_ids"])
        options = {**self.metadata["merge"], "num_things": self.metadata["num_things"], "category_ids": ids.tolist()}
        threshold = self.confidence_threshold or 0.0
        panoptic = without_weak_things(*merge(maps, class_scores, scores, labels, options), threshold)
        things = np.flatnonzero((labels < options["num_things"]) & (scores >= threshold))
        things = things[np.argsort(-scores[things], kind="stable")]
        return Result(boxes[things], scores[things], ids[labels[things]], inside[things], None, panoptic)


def without_weak_things(ids: np.ndarray, segments: list[dict], threshold: float) -> Panoptic:
    """A panoptic map in which the pixels of things of lower score are void."""
    weak = [segment["id"] for segment in segments if segment["isthing"] and segment["score"] < threshold]
    return np.where(np.isin(ids, weak), 0, ids), [segment for segment in segments if segment["id"] not in weak]


def read_rgb(picture: str | Image.Image | np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 in RGB; files are turned as their EXIF orientation says."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"Expected a picture (H, W, 3) of uint8, got {picture.dtype} of shape {picture.shape}.")
        return picture
    image = picture if isinstance(picture, Image.Image) else Image.open(picture)
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def target_size(rule: dict[str, Any], height: int, width: int) -> tuple[int, int]:
    """What a picture's size becomes by a rule of the metadata."""
    if rule["rule"] == "exact":
        return rule["height"], rule["width"]
    if rule["rule"] == "none":
        return height, width
    scale = rule["size"] / min(height, width)
    new_height, new_width = (rule["size"], scale * width) if height < width else (scale * height, rule["size"])
    longest = max(new_height, new_width)
    if longest > rule["max_size"]:
        new_height, new_width = (x * (rule["max_size"] / longest) for x in (new_height, new_width))
    return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)


def resize_picture(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3), smoothed as Pillow does or not as OpenCV does."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if interpolation == "opencv":
        try:
            import cv2
        except ImportError as error:
            raise ImportError("This model's pictures are resized by OpenCV: pip install opencv-python.") from error
        return cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=cv2.INTER_LINEAR)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
