"""What the checks of data find, and where."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_SHOWN = 4  # places that a message names


@dataclass
class Findings:
    """What a check found: `errors`, which stop, and `notes` on what is mended or left out."""

    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def error(self, what: str, places: Iterable[int | str], name: Callable[[Any], str] = str) -> None:
        """Add a mistake unless `places` is empty; `name` describes a place."""
        places = list(dict.fromkeys(places))
        if places:
            more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
            self.errors.append(f"{what}: {', '.join(map(name, places[:_SHOWN]))}{more}")

    def note(self, what: str, count: int) -> None:
        """Add that `count` things of the kind `what` are mended, unless there are none."""
        if count:
            self.notes.append(f"{count} {what}")


@dataclass
class AnnotationTable:
    """Annotations with the sizes of their images.

    Attributes:
        annotations: COCO's records.
        images: the records of the images, by id.
        sizes: (M, 2) height and width of every annotation's image; NaN where it is not known.
    """

    annotations: list[dict]
    images: dict
    sizes: np.ndarray

    @classmethod
    def of(cls, annotations: list[dict], images: dict) -> "AnnotationTable":
        """Annotations of images that are all in `images`."""
        sizes = np.array([(x["height"], x["width"]) for x in images.values()], dtype=float).reshape(-1, 2)
        row = {image_id: i for i, image_id in enumerate(images)}
        return cls(annotations, images, sizes[[row[a["image_id"]] for a in annotations]])

    def name(self, index: int) -> str:
        """How messages call an annotation."""
        annotation = self.annotations[index]
        image = self.images[annotation["image_id"]]
        return f"annotation {annotation['id']!r} of image {image['id']!r} ({image['file_name']})"
