"""Opens all pictures of a dataset and counts their kinds."""

from collections import Counter
from dataclasses import dataclass, field

from PIL import Image
from tqdm import tqdm

from pentamask.data.findings import Findings
from pentamask.data.pictures import annotated_size, open_picture, turn

_ORIENTATION = 0x0112  # tag of EXIF
# Longer side by shorter side: beyond it, resizing leaves next to nothing of a picture.
_LONG = 20


@dataclass
class PictureSummary:
    """What the pictures of a dataset are like.

    Attributes:
        modes: Pillow's modes, "RGB" and others, with their number of pictures.
        orientations: the same for EXIF orientations other than 1.
        sizes: the same for (width, height).
    """

    modes: Counter = field(default_factory=Counter)
    orientations: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)


def check_pictures(records: list[dict]) -> tuple[PictureSummary, Findings]:
    """Open the pictures of Detectron2's records, each with "file_name" and, if it is known, "height" and "width"."""
    summary, findings = PictureSummary(), Findings()
    mismatched, stored, long = [], 0, 0
    for record in tqdm(records, "Opening pictures", delay=5, leave=False):
        try:
            image = open_picture(record["file_name"])
        except OSError as error:
            findings.errors.append(str(error))
            continue
        orientation = _orientation(image)
        size = annotated_size(record)
        turned = turn(image, size)
        summary.modes[image.mode] += 1
        summary.sizes[turned.size] += 1
        if orientation != 1:
            summary.orientations[orientation] += 1
            stored += turned is image
        if size is not None and turned.size != size[::-1]:
            width, height = turned.size
            mismatched.append(f"{record['file_name']} is {width} x {height}, its annotations say {size[1]} x {size[0]}")
        long += max(turned.size) > _LONG * min(turned.size)
    findings.error("pictures of another size than annotated (width x height)", mismatched)
    findings.note("pictures with an EXIF rotation are annotated, and read, as they are stored", stored)
    findings.note(f"pictures are more than {_LONG} times as long as wide", long)
    return summary, findings


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever Pillow raises for broken EXIF, it is read as none
        return 1
