"""Reads pictures of every kind that Pillow opens, the same way for training, testing, the demo and the checks."""

import logging
import warnings

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from PIL import Image, UnidentifiedImageError

# The largest value of a picture decides how many bits its values have.
_TOPS = (255, 1023, 4095, 16383, 65535)


def read_picture(path: str, image_format: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """The first frame of an image file, turned as its EXIF orientation says.

    Values of more than 8 bits and floats are scaled to 0-255, with one warning; transparency is left out.

    Args:
        path: file or address.
        image_format: INPUT.FORMAT: "BGR", "YUV-BT.601" or a mode of Pillow as "RGB" or "L".
        size: (height, width) that the annotations speak of. If it is the size as stored and not the size when turned,
            the annotations were made in stored pixels, and the picture is not turned.

    Returns:
        (H, W, C) uint8; C is 1 for "L".

    Raises:
        OSError: the file is missing, broken, no picture, or too large to be one; names it.
    """
    image = turn(open_picture(path), size)
    return detection_utils.convert_PIL_to_numpy(_as_8_bit(image, path), image_format)


def turn(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """A picture as its EXIF orientation says, unless only the stored one has the annotated (height, width) `size`."""
    turned = detection_utils._apply_exif_orientation(image)
    return image if size is not None and image.size == size[::-1] != turned.size else turned


def annotated_size(record: dict) -> tuple[int, int] | None:
    """(height, width) of one of Detectron2's dataset records, if it has them."""
    return (record["height"], record["width"]) if {"height", "width"} <= record.keys() else None


def read_record_picture(record: dict, image_format: str) -> np.ndarray:
    """The picture of one of Detectron2's dataset records, as `read_picture` with the record's size, if it has one."""
    return read_picture(record["file_name"], image_format, annotated_size(record))


def read_label_map(path: str) -> np.ndarray:
    """The labels (H, W) of an image file, as stored: a palette's indices, not its colours.

    Returns:
        uint8, or float32, which Detectron2's transforms take, if there are labels above 255.

    Raises:
        OSError: as `read_picture`.
        ValueError: the file has colours.
    """
    image = open_picture(path)
    labels = np.asarray(image)
    if labels.ndim != 2:
        raise ValueError(f"{path} has mode {image.mode}, expected one label per pixel (mode L, P or I;16).")
    return labels.astype(np.uint8 if labels.max(initial=0) <= 255 else np.float32)


def convert_bgr(image: np.ndarray, image_format: str) -> np.ndarray:
    """A picture (H, W, 3) uint8 in BGR, as OpenCV has it, in INPUT.FORMAT, as `read_picture` returns it."""
    if image_format == "BGR":
        return image
    return detection_utils.convert_PIL_to_numpy(Image.fromarray(image[:, :, ::-1]), image_format)


def open_picture(path: str) -> Image.Image:
    """The first frame of an image file as it is stored; raises as `read_picture`."""
    try:
        with warnings.catch_warnings(), PathManager.open(path, "rb") as file:
            # Between one and two times Pillow's limit it only warns.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise OSError(_message(path, "it is empty or not a picture")) from error
    except Image.DecompressionBombError as error:
        hint = "A picture that large is read after `PIL.Image.MAX_IMAGE_PIXELS = None`"
        raise OSError(f"{_message(path, error)} {hint}.") from error
    # Pillow reports some broken files as SyntaxError, ValueError or struct.error.
    except (OSError, SyntaxError, ValueError, ArithmeticError, LookupError) as error:
        raise OSError(_message(path, error)) from error


def _message(path: str, reason: object) -> str:
    return f"Cannot read the image file {path}: {str(reason).rstrip('.')}. Replace it or leave it out."


def _as_8_bit(image: Image.Image, path: str) -> Image.Image:
    """The picture in a mode of 8 bits that converts to any other without loss of range."""
    if image.mode in ("P", "PA", "La", "RGBa"):
        return image.convert("RGBA")
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise OSError(_message(path, "it has pixels that are NaN or infinite"))
    low, high = min(values.min(), 0.0), values.max()
    tops = (1, *_TOPS) if image.mode == "F" else _TOPS
    high = next((top for top in tops if high <= top), high)
    log_first_n(
        logging.WARNING,
        f"{path} has mode {image.mode}: its values {low:g} to {high:g} are scaled to 0-255, as in all its like.",
        name=__name__,
    )
    return Image.fromarray(((values - low) * (255 / (high - low))).round().astype(np.uint8))
