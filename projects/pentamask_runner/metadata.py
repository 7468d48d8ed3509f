"""What an exported file says of itself, checked: a file may come from anywhere."""

import contextlib
import json
from typing import Any

# Name -> types of its value, see docs/deploy/README.md; what may be None may be missing.
_TYPES: dict[str, tuple[type, ...]] = {
    "image_format": (str,),
    "pixel_mean": (list,),
    "resize": (dict,),
    "min_size": (int,),
    "size": (list, type(None)),
    "stretches": (bool,),
    "thing_classes": (list,),
    "stuff_classes": (list,),
    "thing_dataset_ids": (list,),
    "mask_kind": (str, type(None)),
    "batch": (int, type(None)),
    "merge": (dict, type(None)),
    "combine": (dict, type(None)),
}
# Of "resize": rule -> its numbers.
_RULES: dict[str, tuple[str, ...]] = {"none": (), "exact": ("height", "width"), "shortest_edge": ("size", "max_size")}


def read_metadata(properties: dict[str, str], path: str) -> dict[str, Any]:
    """The metadata of the file at `path` from the texts that are in it; what others have added is left out.

    Raises:
        ValueError: they are not pentamask's, or damaged; says which.
    """
    if "pentamask_version" not in properties:
        raise ValueError(
            f"{path} has no metadata of pentamask: export it with `python -m pentamask.tools.export_model`."
        )
    metadata = {}
    for name, text in properties.items():
        with contextlib.suppress(ValueError):
            metadata[name] = json.loads(text)
    for name, types in _TYPES.items():
        if not isinstance(metadata.get(name), types):
            raise _damaged(path, name, properties)
    rule = metadata["resize"]
    lengths = {
        "resize": [rule.get(name) for name in _RULES.get(str(rule.get("rule")), ("rule",))],
        "size": metadata.get("size") or [],
        "min_size": [metadata["min_size"]],
    }
    for name, numbers in lengths.items():
        if not all(type(number) is int and number > 0 for number in numbers):
            raise _damaged(path, name, properties)
    return metadata


def _damaged(path: str, name: str, properties: dict[str, str]) -> ValueError:
    value = properties.get(name, "missing")[:80]
    return ValueError(f"{path}: {name} of its metadata is {value}, which this runner does not know: export it again.")
