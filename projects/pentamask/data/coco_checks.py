"""Looks for mistakes in annotations of COCO's format, with arrays instead of loops where there are many."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from tqdm import tqdm

from pentamask.data.findings import AnnotationTable, Findings
from pentamask.data.rle_checks import check_rle

_CHUNK = 50_000  # annotations whose polygons are looked at together
_TOLERANCE = 2.0  # pixels by which a box and the extent of its mask may differ
_TEXT = "(text and number are different)"


def check_coco(coco: dict, *, train: bool, masks: str) -> Findings:
    """Check the contents of a COCO file of instances, before anything was dropped from it.

    Args:
        coco: with "images", "categories" and, except for test data without labels, "annotations".
        train: whether it is to be learnt from, so that there must be something to learn.
        masks: "polygon" or "bitmask", what the objects' masks are to become, which then all need one; "" for no need.
    """
    findings = Findings()
    parts: dict[str, Any] = {key: coco.get(key) for key in ("images", "categories", "annotations")}
    if parts["annotations"] is None and not train:
        findings.notes.append('no "annotations": predictions are written, but nothing is evaluated')
        parts["annotations"] = []
    for key, values in parts.items():
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            findings.errors.append(f'"{key}" is missing or no list of objects')
        elif not values and (train or key != "annotations"):
            findings.errors.append(f'"{key}" is empty')
    if findings.errors:
        return findings
    _check_images(parts["images"], findings)
    _check_categories(parts["categories"], findings)
    annotations = parts["annotations"]
    for key in ("id", "image_id", "category_id"):
        missing = [i for i, a in enumerate(annotations) if not isinstance(a.get(key), (int, float, str))]
        findings.error(f'annotations without "{key}"', missing, lambda i: f"number {i} of the list")
    if findings.errors:
        return findings
    images = {image["id"]: image for image in parts["images"]}
    kept = _check_references(annotations, images, {c["id"] for c in parts["categories"]}, findings)
    if not findings.errors:
        table = AnnotationTable.of(kept, images)
        _check_flags(table, findings, train=train)
        check_shapes(table, findings, masks=masks)
        if train:
            empty = len(images) - len({a["image_id"] for a in kept})
            findings.note(f"of {len(images)} images have no annotation", empty)
    return findings


def _check_images(images: list[dict], findings: Findings) -> None:
    def name(i: int) -> str:
        return f"image {images[i].get('id')!r} ({images[i].get('file_name')})"

    for key, types in (("id", (int, float, str)), ("file_name", str)):
        missing = [i for i, image in enumerate(images) if not isinstance(image.get(key), types)]
        findings.error(f'images without "{key}"', missing, lambda i: f"number {i} of the list")
    for key in ("height", "width"):
        wrong = [i for i, image in enumerate(images) if not (_is_number(image.get(key)) and image[key] >= 1)]
        findings.error(f'images whose "{key}" is missing or not a positive number', wrong, name)
    findings.error('images with the same "id"', _repeated([str(image.get("id")) for image in images]), name)
    findings.note("images share their file with another", len(_repeated([str(x.get("file_name")) for x in images])))


def _check_categories(categories: list[dict], findings: Findings) -> None:
    wrong = [i for i, c in enumerate(categories) if not ({"id", "name"} <= c.keys() and isinstance(c["name"], str))]
    findings.error('categories without "id" or "name"', wrong, lambda i: str(categories[i]))
    for key in ("id", "name"):
        repeated = _repeated([str(c.get(key)) for c in categories])
        findings.error(f'categories with the same "{key}"', repeated, lambda i: str(categories[i]))


def _check_references(annotations: list[dict], images: dict, category_ids: set, findings: Findings) -> list[dict]:
    """Check what ids refer to; returns the annotations whose image exists."""

    def name(i: int) -> str:
        return f"annotation {annotations[i]['id']!r} with {annotations[i]['image_id']!r}"

    ids = [a["id"] for a in annotations]
    if len(set(ids)) < len(ids):
        findings.error('annotations with the same "id"', _repeated(ids), name)
    strays = [i for i, a in enumerate(annotations) if a["image_id"] not in images]
    texts = {str(image_id) for image_id in images} if strays else set()
    mistyped = [i for i in strays if str(annotations[i]["image_id"]) in texts]
    findings.error(f'"image_id" of another type than the images\' "id" {_TEXT}', mistyped, name)
    if strays and len(strays) == len(annotations):
        findings.error('no annotation has an "image_id" that is the "id" of an image', strays, name)
    findings.note('annotations belong to no image (by "image_id") and are left out', len(strays) - len(mistyped))
    unknown = [i for i, a in enumerate(annotations) if a["category_id"] not in category_ids]
    texts = {str(category) for category in category_ids}
    hint = f" {_TEXT}" if any(str(annotations[i]["category_id"]) in texts for i in unknown) else ""
    findings.error(
        f'"category_id" that is no "id" of "categories"{hint}',
        unknown,
        lambda i: f"annotation {annotations[i]['id']!r} with {annotations[i]['category_id']!r}",
    )
    if not strays:
        return annotations
    left_out = set(strays)
    return [a for i, a in enumerate(annotations) if i not in left_out]


def _check_flags(table: AnnotationTable, findings: Findings, *, train: bool) -> None:
    """Check "iscrowd", "area" and "ignore"."""
    annotations = table.annotations
    for key, meaning in (("iscrowd", "taken as 0"), ("area", "which is measured")):
        findings.note(f'annotations have no "{key}", {meaning}', sum(key not in a for a in annotations))
    wrong = [i for i, a in enumerate(annotations) if a.get("iscrowd", 0) not in (0, 1)]
    findings.error('"iscrowd" that is neither 0 nor 1', wrong, table.name)
    wrong = [i for i, a in enumerate(annotations) if not (_is_number(a.get("area", 0)) and a.get("area", 0) >= 0)]
    findings.error('"area" that is no number of pixels', wrong, table.name)
    wrong = [i for i, a in enumerate(annotations) if a.get("ignore", 0) != 0]
    findings.error('"ignore", which Detectron2 does not know (set "iscrowd" 1 or remove them)', wrong, table.name)
    if annotations and all(a.get("iscrowd", 0) == 1 for a in annotations):
        message = f'all {len(annotations)} annotations have "iscrowd" 1, so there is no object to'
        if train:
            findings.errors.append(f"{message} learn")
        else:
            findings.notes.append(f"{message} find")


def check_shapes(table: AnnotationTable, findings: Findings, *, masks: str) -> None:
    """Check boxes and masks; with `masks`, every object but crowds must have one that fits (see `check_coco`)."""
    segmentations = [a.get("segmentation") for a in table.annotations]
    # An array of Detectron2's own format cannot be asked for its truth.
    has_mask = np.array([s is not None and (isinstance(s, np.ndarray) or bool(s)) for s in segmentations], dtype=bool)
    if masks:
        is_crowd = np.array([bool(a.get("iscrowd", 0)) for a in table.annotations], dtype=bool)
        unmasked = np.flatnonzero(~has_mask & ~is_crowd)
        which = "none of the annotations has" if not has_mask.any() else f"{len(unmasked)} annotations do not have"
        findings.error(f'{which} a mask ("segmentation"), which this model learns: annotate them', unmasked, table.name)
    if masks == "polygon":
        encoded = [i for i, s in enumerate(segmentations) if isinstance(s, dict) and not is_crowd[i]]
        what = "masks that are RLE, which INPUT.MASK_FORMAT 'polygon' cannot hold: set INPUT.MASK_FORMAT bitmask"
        findings.error(f"{what} (LazyConfig: the mapper's instance_mask_format)", encoded, table.name)
    extents = np.full((len(segmentations), 4), np.nan)
    by_type: dict[type, list[int]] = {list: [], dict: [], np.ndarray: []}
    others: list[int] = []
    for i in np.flatnonzero(has_mask).tolist():
        by_type.get(type(segmentations[i]), others).append(i)
    findings.error('"segmentation" that is neither a list of polygons nor RLE', others, table.name)
    _check_polygons(table, by_type[list], extents, findings)
    check_rle(table, by_type[dict], findings)
    _check_boxes(table, has_mask, extents, findings)


def _check_polygons(table: AnnotationTable, indices: list[int], extents: np.ndarray, findings: Findings) -> None:
    """Check those annotations that have polygons, and write their extents, xyxy in pixels, into `extents` (M, 4)."""
    flat: list[int] = []
    malformed: list[int] = []
    good: list[int] = []
    for i in indices:
        polygons = table.annotations[i]["segmentation"]
        if all(isinstance(polygon, (list, tuple, np.ndarray)) for polygon in polygons):
            good.append(i)
        else:
            (flat if _is_number(polygons[0]) else malformed).append(i)
    what = "one flat list of numbers: a list of polygons is needed, [[x1, y1, x2, y2, ...], ...]"
    findings.error(f'"segmentation" that is {what}', flat, table.name)
    found: dict[str, list[int]] = {"odd": [], "short": [], "not finite": [], "far": [], "pieces": []}
    for start in tqdm(range(0, len(good), _CHUNK), desc="Checking polygons", delay=5, leave=False):
        chunk = np.array(good[start : start + _CHUNK])
        try:
            _look_at_polygons(table, chunk, extents, found)
        except (TypeError, ValueError):  # something in it is no number: look at each by itself
            for i in chunk:
                try:
                    _look_at_polygons(table, np.array([i]), extents, found)
                except (TypeError, ValueError):
                    malformed.append(i)
    findings.error("polygons that are not lists of numbers", malformed, table.name)
    findings.error("polygons with an odd number of coordinates", found["odd"], table.name)
    findings.error("masks without a polygon of at least 3 points", found["short"], table.name)
    findings.error("polygons with coordinates that are NaN or infinite", found["not finite"], table.name)
    findings.error("polygons that lie far outside of their image", found["far"], table.name)
    findings.note("polygons of fewer than 3 points, beside others, are left out", len(found["pieces"]))


def _look_at_polygons(table: AnnotationTable, chunk: np.ndarray, extents: np.ndarray, found: dict[str, list]) -> None:
    """Add indices of annotations in `chunk` to the mistakes in `found`; raises if something is not a number."""
    polygons_of = [table.annotations[i]["segmentation"] for i in chunk]
    polygons = list(chain.from_iterable(polygons_of))
    owner = np.repeat(chunk, [len(p) for p in polygons_of])
    lengths = np.array([len(p) for p in polygons], dtype=int)
    values = np.array(list(chain.from_iterable(polygons)))
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise TypeError("polygons hold something that is no number")
    value_owner = np.repeat(owner, lengths)
    odd = owner[lengths % 2 == 1]
    if len(odd):
        found["odd"] += odd.tolist()
        _look_at_polygons(table, np.setdiff1d(chunk, odd), extents, found)
        return
    found["not finite"] += value_owner[~np.isfinite(values)].tolist()
    long_enough = set(owner[lengths >= 6].tolist())
    short = owner[lengths < 6].tolist()
    found["short"] += [i for i in short if i not in long_enough]
    found["pieces"] += [i for i in short if i in long_enough]
    if len(values) == 0:
        return
    is_y = np.arange(len(values)) % 2
    limits = table.sizes[value_owner, 1 - is_y]
    found["far"] += value_owner[(values < -limits) | (values > 2 * limits)].tolist()
    owners, starts = np.unique(value_owner, return_index=True)
    for axis in (0, 1):
        low, high = np.where(is_y == axis, values, np.inf), np.where(is_y == axis, values, -np.inf)
        extents[owners, axis] = np.minimum.reduceat(low, starts)
        extents[owners, axis + 2] = np.maximum.reduceat(high, starts)


def _check_boxes(table: AnnotationTable, has_mask: np.ndarray, extents: np.ndarray, findings: Findings) -> None:
    """Check the boxes, also against `extents` (M, 4) of the polygons, xyxy in pixels."""
    missing = np.array(["bbox" not in a for a in table.annotations], dtype=bool)
    findings.error('annotations with neither "bbox" nor mask', np.flatnonzero(missing & ~has_mask), table.name)
    findings.note('annotations have no "bbox", which is made from their mask', int((missing & has_mask).sum()))
    indices = np.flatnonzero(~missing)
    boxes, malformed = _numbers([table.annotations[i]["bbox"] for i in indices])
    what = "no list of 4 numbers x, y, width, height (without the key it is made from the mask)"
    findings.error(f'"bbox" that is {what}', indices[malformed], table.name)
    indices = np.delete(indices, malformed)
    broken = ~np.isfinite(boxes).all(axis=1)
    findings.error('"bbox" with NaN or infinity', indices[broken], table.name)
    negative = (boxes[:, 2:] < 0).any(axis=1)
    findings.error('"bbox" with negative width or height', indices[negative], table.name)
    indices, boxes = indices[~broken & ~negative], boxes[~broken & ~negative]
    width, height = table.sizes[indices, 1], table.sizes[indices, 0]
    (x1, y1), (x2, y2) = boxes[:, :2].T, (boxes[:, :2] + boxes[:, 2:]).T
    empty = (boxes[:, 2:] == 0).any(axis=1)
    outside = ~empty & ((x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height))
    reaching = (x1 < -1) | (y1 < -1) | (x2 > width + 1) | (y2 > height + 1)
    difference = abs(extents[indices] - np.stack([x1, y1, x2, y2], axis=1)).max(axis=1, initial=0)
    corners = (abs(extents[indices] - boxes).max(axis=1, initial=0) < _TOLERANCE) & ~(difference < _TOLERANCE)
    suspicious = indices[corners] if corners.sum() * 2 > len(indices) else indices[:0]
    findings.error('"bbox" that seems to be x1, y1, x2, y2 instead of x, y, width, height', suspicious, table.name)
    if len(suspicious) == 0 and reaching.sum() * 2 > len(indices):
        what = "most boxes reach out of their images: look at the images' sizes, and that boxes are x, y, width, height"
        findings.error(what, indices[reaching], table.name)
    findings.note("boxes without width or height are left out of training", int(empty.sum()))
    findings.note("boxes outside of their image are left out of training", int(outside.sum()))
    findings.note("boxes reach out of their image and are cut off at its edge", int((reaching & ~outside).sum()))


def _numbers(rows: Sequence[object]) -> tuple[np.ndarray, list[int]]:
    """The rows of 4 numbers as (m, 4) float, and the places of all other rows."""
    try:
        array = np.array(rows)
        if array.ndim == 2 and array.shape[1] == 4 and array.dtype.kind in "iuf":
            return array.astype(float), []
    except ValueError:  # the rows differ in length
        pass
    good = [isinstance(row, (list, tuple, np.ndarray)) and len(row) == 4 and all(map(_is_number, row)) for row in rows]
    numbers = [row for row, is_good in zip(rows, good) if is_good]
    return np.array(numbers, dtype=float).reshape(-1, 4), [i for i, is_good in enumerate(good) if not is_good]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _repeated(values: Sequence) -> list[int]:
    """The places of values that occurred before."""
    seen, repeated = set(), []
    for i, value in enumerate(values):
        if value in seen:
            repeated.append(i)
        seen.add(value)
    return repeated
