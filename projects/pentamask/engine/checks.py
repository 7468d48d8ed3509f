"""Finds what a user got wrong before training starts, and reports it in one readable error."""

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig, OmegaConf

from pentamask.common import get_key
from pentamask.data.checks import DatasetError, checked_datasets
from pentamask.data.panoptic import load_metadata
from pentamask.plugin import declared, find_model_class


class BadInput(ValueError):
    """The user's config, data or files cannot be used; the message says what to change."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean x or y?' with the known words nearest to `word`, or ''."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def check_config(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Check what can be checked without loading data.

    Args:
        cfg: the whole config.
        resume: --resume; a checkpoint in OUTPUT_DIR then replaces MODEL.WEIGHTS.
        eval_only: --eval-only; DATASETS.TRAIN is not used.

    Raises:
        BadInput: an unregistered dataset, no dataset or missing weights.
    """
    for key, names in (("DATASETS.TRAIN", cfg.DATASETS.TRAIN), ("DATASETS.TEST", cfg.DATASETS.TEST)):
        if key == "DATASETS.TRAIN" and eval_only:
            continue
        for name in names:
            check_registered(name, key)
        if not names and (eval_only or key == "DATASETS.TRAIN"):
            raise BadInput(f"{key} is empty: name at least one dataset.")
    if find_model_class(cfg) is None:
        raise BadInput(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} is not registered."
            f"{did_you_mean(cfg.MODEL.META_ARCHITECTURE, [name for name, _ in META_ARCH_REGISTRY])}"
        )
    check_weights("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS, resume_from=cfg.OUTPUT_DIR if resume else None)


def check_registered(name: str, key: str) -> None:
    """Check that dataset `name`, which config key `key` names, is registered.

    Raises:
        BadInput: it is not.
    """
    if name not in DatasetCatalog:
        raise BadInput(
            f"{key} names {name!r}, which is not a registered dataset.{did_you_mean(name, DatasetCatalog.list())} "
            "Register your own with detectron2.data.datasets.register_coco_instances."
        )


def check_weights(key: str, path: str, *, resume_from: str | None = None) -> None:
    """Check that the checkpoint `path`, which config key `key` names, exists; addresses are left to the download.

    Args:
        key: for the message.
        path: file or address; "" means random weights.
        resume_from: folder whose last checkpoint, if there is one, is used instead.

    Raises:
        BadInput: there is no such file.
    """
    path = path.split("?")[0]
    if resume_from is not None and os.path.isfile(os.path.join(resume_from, "last_checkpoint")):
        return
    if path and "://" not in path and not PathManager.isfile(path):
        raise BadInput(
            f"{key}: {path!r} does not exist. Give the path or address of a checkpoint, "
            "or '' to start from random weights."
        )


def check_num_gpus(num_gpus: int) -> None:
    """Check --num-gpus, the number of processes on this machine; 0 and 1 run anywhere.

    Raises:
        BadInput: more processes than GPUs, or a negative number.
    """
    if num_gpus < 0:
        raise BadInput(f"--num-gpus {num_gpus}: give 0 or more.")
    if num_gpus > max(1, torch.cuda.device_count()):
        raise BadInput(f"--num-gpus {num_gpus}: this machine has {torch.cuda.device_count()} usable GPUs.")


def mask_format(cfg: CfgNode | DictConfig, split: str) -> str:
    """What the masks of the "train" or "test" datasets become, as `checked_datasets` takes it."""
    if isinstance(cfg, CfgNode):
        used, form = cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT
    else:
        mapper = cfg.dataloader.train.mapper
        used, form = mapper.get("use_instance_mask", True), mapper.get("instance_mask_format", "polygon")
        if "use_instance_mask" not in mapper:
            form = "bitmask"  # it leaves masks to its target maker, which takes either form
    if not used:
        return ""
    return form if split == "train" else "bitmask"


@contextmanager
def checked_loading(names: Sequence[str], *, train: bool, masks: str, pictures: bool = True) -> Iterator[None]:
    """Within, datasets are checked when they are loaded, by one process of each machine.

    Args:
        names, train, masks, pictures: as for `checked_datasets`.

    Raises:
        BadInput: what goes wrong while they are loaded; names them and their files.
    """
    with dataset_errors(names):
        if comm.get_local_rank() == 0:
            with checked_datasets(names, train=train, masks=masks, pictures=pictures):
                yield
        else:
            yield


@contextmanager
def dataset_errors(names: Iterable[str]) -> Iterator[None]:
    """Turn what goes wrong while datasets are loaded into a `BadInput` that names them and their files."""
    try:
        yield
    except BadInput:
        raise
    except DatasetError as error:
        raise BadInput(str(error)) from error
    except (OSError, KeyError, ValueError, AssertionError, TypeError, IndexError, RecursionError) as error:
        raise BadInput(_explain_dataset_error(list(names), error)) from error


def _explain_dataset_error(names: list[str], error: Exception) -> str:
    files = [path for name in names for path in [MetadataCatalog.get(name).get("json_file")] if path]
    where = f"Cannot load dataset {', '.join(names)} from {', '.join(files) or 'its source'}: "
    if isinstance(error, FileNotFoundError):
        return f"{where}{error.filename or error} does not exist. {_datasets_folder()}"
    if isinstance(error, json.JSONDecodeError):
        return f"{where}the file is not JSON or cut short ({error})."
    if isinstance(error, AssertionError) and str(error).startswith("No valid data found"):
        return f'{where}no image has an annotation to learn from; check its "annotations".'
    # str() of a KeyError is the repr of its message.
    message = error.args[0] if error.args else repr(error)
    return f"{where}{type(error).__name__}: {message}"


def _datasets_folder() -> str:
    folder = os.environ.get("DETECTRON2_DATASETS", "unset, so ./datasets")
    return f"Built-in datasets are looked for in $DETECTRON2_DATASETS ({folder})."


def check_dataset_files(names: Iterable[str]) -> None:
    """Check that the files and folders that the datasets' metadata names exist; datasets must have been loaded once.

    Raises:
        BadInput: one is missing.
    """
    for name in names:
        metadata = MetadataCatalog.get(name)
        for field in ("image_root", "json_file", "panoptic_root", "panoptic_json", "sem_seg_root"):
            path = metadata.get(field)
            if path and not PathManager.exists(path):
                raise BadInput(f"Dataset {name!r}: {field} {path} does not exist. {_datasets_folder()}")


def check_class_names(train: Sequence[str], others: Sequence[str], *, masks: str) -> None:
    """Check that datasets number their classes as the first training set does; those that are not complete are loaded.

    Args:
        train: names of the training sets, which have been loaded.
        others: names of the test sets.
        masks: as for `checked_loading`.

    Raises:
        BadInput: names differ, or stand in another order; says which.
    """
    reference = MetadataCatalog.get(train[0])
    for name in (*train[1:], *others):
        with checked_loading([name], train=False, masks=masks):
            metadata = load_metadata(name)
        if _is_standard_panoptic(metadata) != _is_standard_panoptic(reference):
            continue
        for field in ("thing_classes", "stuff_classes"):
            expected, found = reference.get(field), metadata.get(field)
            if None not in (expected, found) and list(expected) != list(found):
                with checked_loading([name], train=False, masks=masks):
                    DatasetCatalog.get(name)  # that its files are missing would be said first
                difference = _explain_names(list(expected), list(found))
                raise BadInput(f"Dataset {name!r} does not have the {field} of {train[0]!r}: {difference}")


def _explain_names(expected: list[str], found: list[str]) -> str:
    missing = [name for name in expected if name not in found]
    if missing:
        extra = [name for name in found if name not in expected]
        instead = f" and has {_listed(extra)}, which that one lacks" if extra else ""
        return (
            f"it lacks {_listed(missing)}{instead}. Give both the same names under the same ids; a class "
            "needs no annotation."
        )
    extra = [name for name in found if name not in expected]
    if extra:
        return f"it also has {_listed(extra)}, which a model that never saw them cannot find. Remove them."
    i = next(i for i, (a, b) in enumerate(zip(expected, found)) if a != b)
    return (
        f"they stand in another order, so that {found[i]!r} would be evaluated as {expected[i]!r}. Give each class the "
        "same id in both files."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _is_standard_panoptic(metadata: Metadata) -> bool:
    """Whether a dataset has Detectron2's "standard" form: maps of segments instead of semantic labels."""
    return bool(metadata.get("panoptic_json")) and not metadata.get("sem_seg_root")


def check_class_counts(cfg: CfgNode, names: Iterable[str]) -> None:
    """Compare the class counts of the config with the datasets' metadata, which is complete once they were loaded.

    Raises:
        BadInput: they differ; both numbers and the keys are named.
    """
    counts: dict[str, dict[str, int]] = {}
    for count in declared(find_model_class(cfg), "class_counts"):
        if count.key is not None and (count.enabled_by is None or get_key(cfg, count.enabled_by)):
            number = get_key(cfg, count.key)
            if number != count.unset:
                counts.setdefault(count.field, {})[count.key] = number
    _compare_class_counts(counts, names, "{} {}")


def check_lazy_class_counts(cfg: DictConfig, names: Iterable[str]) -> None:
    """As `check_class_counts` for a LazyConfig, by the class that `cfg.model` names."""
    keys: dict[str, list[str]] = {}
    for count in declared(find_model_class(cfg), "class_counts"):
        keys.setdefault(count.field, []).extend(count.lazy_keys)
    counts = {field: _lazy_counts(cfg, paths) for field, paths in keys.items()}
    _compare_class_counts(counts, names, "{}={}")


def _lazy_counts(cfg: DictConfig, keys: Iterable[str]) -> dict[str, int]:
    """Those of the `keys` of `cfg.model` that are there, with their values; not those that repeat another's value."""
    paths = [f"model.{key}" for key in keys]
    counts = {path: OmegaConf.select(cfg, path) for path in paths}
    counts = {path: count for path, count in counts.items() if count is not None}
    own = {path: count for path, count in counts.items() if not _is_interpolation(cfg, path)}
    return own or counts


def _is_interpolation(cfg: DictConfig, path: str) -> bool:
    parent, _, key = path.rpartition(".")
    return OmegaConf.is_interpolation(OmegaConf.select(cfg, parent), key)


def _compare_class_counts(counts: dict[str, dict[str, int]], names: Iterable[str], setting: str) -> None:
    """Raise `BadInput` unless every dataset has as many classes as the keys say.

    Args:
        counts: metadata field to key to value.
        names: of the datasets.
        setting: how a key and its value are written, to be formatted with both.
    """
    for name in names:
        if counts and "stuff_only_classes" not in counts and _is_standard_panoptic(MetadataCatalog.get(name)):
            raise BadInput(
                f"Dataset {name!r} has panoptic segments (register_coco_panoptic), but this model needs instances and, "
                "for stuff, maps of semantic labels: register it with register_coco_panoptic_separated and use "
                f"'{name}_separated', or its instances alone with register_coco_instances."
            )
        for field, values in counts.items():
            count = _class_count(MetadataCatalog.get(name), field)
            wrong = [f"{key} is {value}" for key, value in values.items() if count not in (None, value)]
            if wrong:
                raise BadInput(
                    f"Dataset {name!r} has {count} {field}, but {' and '.join(wrong)}. "
                    f"Set {' and '.join(setting.format(key, count) for key in values)}."
                )


def _class_count(metadata: Metadata, field: str) -> int | None:
    """The number of things or of stuff classes; None if the metadata does not say."""
    # Detectron2's "standard" panoptic sets list all classes under both fields, only their id maps tell them apart.
    ids = metadata.get(f"{field.removesuffix('_classes').removesuffix('_only')}_dataset_id_to_contiguous_id")
    if field == "stuff_only_classes":  # without the class of dataset id 0, "things", of separated panoptic sets
        return None if ids is None else len(set(ids) - {0})
    classes = ids if ids is not None else metadata.get(field)
    return None if classes is None else len(classes)
