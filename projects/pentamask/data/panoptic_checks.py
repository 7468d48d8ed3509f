"""Looks for mistakes in COCO's panoptic format: a file of segments, and PNG files of their ids."""

import json
from collections.abc import Sequence
from itertools import chain

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.file_io import PathManager

from pentamask.data.findings import Findings
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
    if not train:
        for key in ("iscrowd", "area"):
            missing = sum(key not in s for s in segments)
            findings.note(f'segments have no "{key}", which is filled in', missing)
    elif segments and all(s.get("iscrowd", 0) for s in segments):
        findings.errors.append(f'all {len(segments)} segments have "iscrowd" 1, so there is nothing to learn')
    elif not segments:
        findings.errors.append("no image has a segment")
    if not findings.errors:
        _check_files(records, findings, max_files)
    return findings


def _check_files(records: Sequence[dict], findings: Findings, max_files: int | None) -> None:
    """Compare segments with their PNG files, of which at most `max_files` are opened."""
    count = len(records) if max_files is None else min(max_files, len(records))
    absent, unlisted = [], 0
    for i in np.linspace(0, len(records) - 1, count).astype(int) if count else ():
        record = records[i]
        try:
            png = read_picture(record["pan_seg_file_name"], "RGB")
        except OSError as error:
            findings.errors.append(str(error))
            continue
        there = set(np.unique(segment_ids(png)).tolist()) - {0}
        listed = {s["id"] for s in record["segments_info"]}
        absent += [
            f"{i} of image {record['image_id']!r} ({record['pan_seg_file_name']})" for i in sorted(listed - there)
        ]
        unlisted += len(there - listed)
    findings.error("segments that have no pixel in their PNG file", absent)
    findings.note("segments of PNG files are not listed and count as nothing", unlisted)


def segment_ids(png: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) int64: R + 256 G + 65536 B."""
    return png.astype(np.int64) @ np.array([1, 256, 65536])


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
