"""Looks for mistakes in COCO's panoptic format: a file of segments, and PNG files of their ids."""

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from pentamask.data.findings import Findings
from pentamask.data.panoptic import segment_ids
from pentamask.data.pictures import read_picture

_MAX_FILES = 200  # PNG files that are looked at before training, evenly taken
_MAX_ID = 256**3 - 1


def check_panoptic(records: list[dict], *, train: bool, max_files: int | None = _MAX_FILES) -> Findings:
    """Check Detectron2's records of the "standard" form.

    Args:
        records: with "segments_info" and "pan_seg_file_name".
        train: whether they are to be learnt from.
        max_files: how many PNG files are opened; None for all.
    """
    findings = Findings()
    segments = list(chain.from_iterable(record["segments_info"] for record in records))
    owner = np.repeat(np.arange(len(records)), [len(record["segments_info"]) for record in records])

    def name(i: int) -> str:
        record = records[owner[i]]
        return f"segment {segments[i].get('id')!r} of image {record['image_id']!r} ({record['pan_seg_file_name']})"

    wrong = [i for i, s in enumerate(segments) if not (isinstance(s.get("id"), int) and 0 < s["id"] <= _MAX_ID)]
    findings.error('segments whose "id" is no number from 1 to 256³ - 1 (0 stands for no segment)', wrong, name)
    if wrong:
        return findings
    keys = owner * (_MAX_ID + 1) + np.array([s["id"] for s in segments], dtype=np.int64)
    first = np.zeros(len(keys), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    findings.error('segments with the same "id" in one image', np.flatnonzero(~first), name)
    boxed = [i for i, s in enumerate(segments) if "bbox" in s]
    flat = [i for i in boxed if not _has_an_area(segments[i]["bbox"])]
    findings.error('"bbox" that is not x, y, width, height with an area (without the key it is made)', flat, name)
    if not train:
        for key in ("iscrowd", "area"):
            missing = sum(key not in s for s in segments)
            findings.note(f'segments have no "{key}", which is filled in', missing)
    elif segments and all(s.get("iscrowd", 0) for s in segments):
        findings.errors.append(f'all {len(segments)} segments have "iscrowd" 1, so there is nothing to learn')
    elif not segments:
        findings.errors.append("no image has a segment")
    if not findings.errors:
        _check_files(records, findings, max_files, areas=not train)
    return findings


def _has_an_area(box: Any) -> bool:
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError):
        return False
    return bool(np.isfinite([x, y]).all() and 0 < width < np.inf and 0 < height < np.inf)


def _check_files(records: Sequence[dict], findings: Findings, max_files: int | None, *, areas: bool) -> None:
    """Compare segments, and optionally their areas, with their PNG files, of which at most `max_files` are opened."""
    count = len(records) if max_files is None else min(max_files, len(records))
    absent, mismeasured, unlisted = [], [], 0
    for i in tqdm(np.linspace(0, len(records) - 1, count).astype(int), "Checking segments", delay=5, leave=False):
        record = records[i]
        try:
            ids, counts = np.unique(segment_ids(read_picture(record["pan_seg_file_name"], "RGB")), return_counts=True)
        except OSError as error:
            findings.errors.append(str(error))
            continue
        measured = dict(zip(ids.tolist(), counts.tolist()))
        for segment in record["segments_info"]:
            name = f"segment {segment['id']} of image {record['image_id']!r} ({record['pan_seg_file_name']})"
            if segment["id"] not in measured:
                absent.append(name)
            elif areas and segment.get("area", measured[segment["id"]]) != measured[segment["id"]]:
                mismeasured.append(name)
        unlisted += len(measured.keys() - {0} - {s["id"] for s in record["segments_info"]})
    findings.error("segments that have no pixel in their PNG file", absent)
    findings.error('segments whose "area" is not their number of pixels in the PNG file', mismeasured)
    findings.note("segments of PNG files are not listed and count as nothing", unlisted)


def check_evaluated_file(records: list[dict], path: str) -> Findings:
    """Check what the evaluation reads from a panoptic file: its classes, and that its images are those of `records`."""
    findings = Findings()
    with PathManager.open(path) as file:
        contents = json.load(file)
    categories = contents.get("categories") or []
    wrong = [i for i, c in enumerate(categories) if not {"id", "isthing"} <= c.keys()]
    findings.error('"categories" without "id" or "isthing"', wrong, lambda i: str(categories[i]))
    known = {category.get("id") for category in categories}
    annotations = contents.get("annotations") or []
    used = {segment["category_id"] for annotation in annotations for segment in annotation["segments_info"]}
    findings.error('"category_id" of segments that is no "id" of "categories"', sorted(used - known, key=str), repr)
    images = {record.get("image_id") for record in records}
    strays = [a["image_id"] for a in annotations if a["image_id"] not in images]
    findings.error('"image_id" that is the id of no image (text and number are different)', strays, repr)
    return findings


def explain_panoptic_file(metadata: Metadata, error: Exception) -> Findings:
    """Why Detectron2 could not load a dataset of the "standard" form; nothing if the cause is not in its file."""
    findings = Findings()
    path = metadata.get("panoptic_json")
    if path is None or not PathManager.isfile(path):
        return findings
    with PathManager.open(path) as file:
        contents = json.load(file)
    annotations = contents.get("annotations") if isinstance(contents, dict) else None
    if not annotations:
        findings.errors.append('"annotations" is missing or empty')
        return findings
    for key in ("image_id", "file_name", "segments_info"):
        without = [i for i, a in enumerate(annotations) if key not in a]
        findings.error(f'annotations without "{key}"', without, lambda i: f"number {i} of the list")
    if findings.errors:
        return findings
    maps = [metadata.get(f"{kind}_dataset_id_to_contiguous_id") for kind in ("thing", "stuff")]
    if None in maps:
        findings.errors.append(
            "its metadata lacks thing_dataset_id_to_contiguous_id or stuff_dataset_id_to_contiguous_id: give both to "
            "register_coco_panoptic, {} for none"
        )
        return findings
    unknown = [
        f"{s.get('category_id')!r} of segment {s.get('id')!r} of image {a['image_id']!r} ({a['file_name']})"
        for a in annotations
        for s in a["segments_info"]
        if s.get("category_id") not in maps[0] and s.get("category_id") not in maps[1]
    ]
    findings.error("category_id that the metadata has neither as a thing nor as stuff", unknown)
    if not findings.errors and isinstance(error, AssertionError):
        findings.errors.append(
            f"{error} does not exist (Detectron2 takes the name of the PNG file with .jpg for that of the image)"
        )
    return findings
