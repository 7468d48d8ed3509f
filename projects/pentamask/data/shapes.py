"""The embedded default dataset: generated on first use, stored and loaded as COCO is.

Names, for S in train and val, as Detectron2 names COCO's:
    shapes_S                       instance segmentation (RLE masks: train with INPUT.MASK_FORMAT "bitmask")
    shapes_S_panoptic              panoptic, "standard": one list of contiguous ids, things first
    shapes_S_panoptic_separated    panoptic, "separated": instances, and semantic labels with 0 for any thing
    shapes_S_panoptic_stuffonly    those semantic labels alone

The files lie in $DETECTRON2_DATASETS/shapes, without that variable in the cache of Detectron2's PathManager
($FVCORE_CACHE, else ~/.torch/iopath_cache).
"""

import json
import os
import shutil
from collections.abc import Callable

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_sem_seg
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json, merge_to_panoptic
from iopath.common.file_io import file_lock, get_cache_dir
from PIL import Image

from pentamask.data.shape_scenes import STUFF_CLASSES, THING_CLASSES, Scene, draw_scene

NUM_IMAGES = {"train": 800, "val": 100}
# Part of the folder name: raise it whenever the scenes or the files change, so that nobody reads old ones.
_VERSION = 6

_THING_IDS = range(1, len(THING_CLASSES) + 1)
_STUFF_IDS = range(len(THING_CLASSES) + 1, len(THING_CLASSES) + len(STUFF_CLASSES) + 1)
_THING_COLORS = [(220, 60, 50), (60, 120, 230), (250, 190, 40), (200, 70, 220), (40, 190, 110), (250, 130, 30)]
_STUFF_COLORS = [(150, 200, 250), (150, 130, 80), (40, 90, 160)]


def default_root() -> str:
    """The folder of the dataset's files; it need not exist yet."""
    parent = os.environ.get("DETECTRON2_DATASETS") or os.path.join(get_cache_dir(), "pentamask")
    return os.path.join(os.path.expanduser(parent), f"shapes/v{_VERSION}")


def write_shapes(root: str, num_images: dict[str, int]) -> None:
    """Generate the dataset unless `root` exists; safe to call from several processes, which then wait for the first.

    Args:
        root: folder to make: images, annotations and PNG maps for each split, in COCO's formats.
        num_images: split name to number of images; the n-th image of a split is always the same.

    Raises:
        OSError: `root` cannot be written; the message says which variable moves it.
    """
    if os.path.isdir(root):
        return
    try:
        os.makedirs(os.path.dirname(os.path.abspath(root)), exist_ok=True)
        with file_lock(root):
            if os.path.isdir(root):
                return
            unfinished = root + ".tmp"
            shutil.rmtree(unfinished, ignore_errors=True)
            for seed, split in enumerate(num_images):
                _write_split(unfinished, split, num_images[split], seed)
            os.rename(unfinished, root)
    except OSError as error:
        raise OSError(
            f"Cannot write the generated shapes dataset to {root}: {error}. "
            "Set the environment variable DETECTRON2_DATASETS to a folder you may write to."
        ) from error


def _write_split(root: str, split: str, num_images: int, seed: int) -> None:
    folders = {name: os.path.join(root, f"{name}{split}") for name in ("", "panoptic_", "panoptic_stuff_")}
    for folder in (*folders.values(), os.path.join(root, "annotations")):
        os.makedirs(folder, exist_ok=True)
    images: list[dict] = []
    instances: list[dict] = []
    panoptic: list[dict] = []
    for image_id in range(1, num_images + 1):
        scene = draw_scene(np.random.default_rng([seed, image_id]))
        stem = f"{image_id:06d}"
        height, width = scene.stuff.shape
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": height, "width": width})
        Image.fromarray(scene.image).save(os.path.join(folders[""], f"{stem}.jpg"), quality=95)
        for annotation in _instance_annotations(scene):
            instances.append({"id": len(instances) + 1, "image_id": image_id, **annotation})
        id_map, segments = _panoptic_annotation(scene)
        panoptic.append({"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments})
        id_map_rgb = np.stack([id_map, np.zeros_like(id_map), np.zeros_like(id_map)], axis=-1)  # ids stay below 256
        Image.fromarray(id_map_rgb).save(os.path.join(folders["panoptic_"], f"{stem}.png"))
        semantic = np.where(np.any(scene.masks, axis=0), 0, scene.stuff + 1).astype(np.uint8)
        Image.fromarray(semantic).save(os.path.join(folders["panoptic_stuff_"], f"{stem}.png"))
    things, stuff = _categories()
    for name, annotations, categories in (
        ("instances", instances, things),
        ("panoptic", panoptic, things + stuff),
    ):
        with open(os.path.join(root, "annotations", f"{name}_{split}.json"), "w") as file:
            json.dump({"info": {}, "images": images, "annotations": annotations, "categories": categories}, file)


def _categories() -> tuple[list[dict], list[dict]]:
    """COCO's category records of the things and of the stuff."""
    things = zip(_THING_IDS, THING_CLASSES, _THING_COLORS)
    stuff = zip(_STUFF_IDS, STUFF_CLASSES, _STUFF_COLORS)
    return (
        [{"id": i, "name": name, "isthing": 1, "color": color} for i, name, color in things],
        [{"id": i, "name": name, "isthing": 0, "color": color} for i, name, color in stuff],
    )


def _instance_annotations(scene: Scene) -> list[dict]:
    """COCO's annotation records of the visible parts, without ids."""
    records = []
    for label, mask in zip(scene.classes, scene.masks):
        rle = mask_util.encode(np.asfortranarray(mask))
        records.append(
            {
                "category_id": _THING_IDS[label],
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": mask_util.toBbox(rle).tolist(),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            }
        )
    return records


def _panoptic_annotation(scene: Scene) -> tuple[np.ndarray, list[dict]]:
    """The segment ids (H, W) uint8 from 1 on, and COCO's segments_info."""
    taken = np.any(scene.masks, axis=0)
    parts = [(_THING_IDS[label], mask) for label, mask in zip(scene.classes, scene.masks)]
    parts += [(category, (scene.stuff == label) & ~taken) for label, category in enumerate(_STUFF_IDS)]
    id_map = np.zeros(scene.stuff.shape, np.uint8)
    segments: list[dict] = []
    for category, mask in parts:
        if not mask.any():
            continue
        segment_id = len(segments) + 1
        id_map[mask] = segment_id
        bbox = mask_util.toBbox(mask_util.encode(np.asfortranarray(mask))).tolist()
        segments.append(
            {"id": segment_id, "category_id": category, "iscrowd": 0, "area": int(mask.sum()), "bbox": bbox}
        )
    return id_map, segments


def register_shapes() -> None:
    """Register the names listed above in Detectron2's catalogs; nothing is generated before a name is first loaded."""
    root = default_root()
    for split in NUM_IMAGES:
        _register_split(f"shapes_{split}", root, split)


def _register_split(name: str, root: str, split: str) -> None:
    images, stuff_maps = os.path.join(root, split), os.path.join(root, f"panoptic_stuff_{split}")
    instances_json = os.path.join(root, "annotations", f"instances_{split}.json")
    panoptic = {
        "panoptic_root": os.path.join(root, f"panoptic_{split}"),
        "panoptic_json": os.path.join(root, "annotations", f"panoptic_{split}.json"),
        "label_divisor": 1000,
    }
    standard, separated, things = _standard_metadata(), _separated_metadata(), _thing_metadata()

    def load_separated() -> list[dict]:
        instances = load_coco_json(instances_json, images, f"{name}_panoptic_separated")
        return merge_to_panoptic(instances, load_sem_seg(stuff_maps, images))

    def register(name: str, load: Callable[[], list[dict]], evaluator_type: str, **metadata: object) -> None:
        def write_and_load() -> list[dict]:
            write_shapes(root, NUM_IMAGES)
            return load()

        DatasetCatalog.register(name, write_and_load)
        MetadataCatalog.get(name).set(
            evaluator_type=evaluator_type, image_root=images, json_file=instances_json, ignore_label=255, **metadata
        )

    register(name, lambda: load_coco_json(instances_json, images, name), "coco", **things)
    register(
        f"{name}_panoptic",
        lambda: load_coco_panoptic_json(panoptic["panoptic_json"], images, panoptic["panoptic_root"], standard),
        "coco_panoptic_seg",
        **panoptic,
        **standard,
    )
    register(
        f"{name}_panoptic_separated",
        load_separated,
        "coco_panoptic_seg",
        sem_seg_root=stuff_maps,
        **panoptic,
        **separated,
    )
    register(
        f"{name}_panoptic_stuffonly",
        lambda: load_sem_seg(stuff_maps, images),
        "sem_seg",
        sem_seg_root=stuff_maps,
        **separated,
    )


def _thing_metadata() -> dict:
    return {
        "thing_classes": list(THING_CLASSES),
        "thing_colors": list(_THING_COLORS),
        "thing_dataset_id_to_contiguous_id": {i: label for label, i in enumerate(_THING_IDS)},
    }


def _separated_metadata() -> dict:
    """As Detectron2 describes separated COCO: semantic class 0 is "things", stuff follows."""
    return _thing_metadata() | {
        "stuff_classes": ["things", *STUFF_CLASSES],
        "stuff_colors": [(82, 18, 128), *_STUFF_COLORS],
        "stuff_dataset_id_to_contiguous_id": {0: 0} | {i: label + 1 for label, i in enumerate(_STUFF_IDS)},
    }


def _standard_metadata() -> dict:
    """As Detectron2 describes standard COCO: every class is named under "thing" and under "stuff" alike."""
    names, colors = THING_CLASSES + STUFF_CLASSES, _THING_COLORS + _STUFF_COLORS
    return _thing_metadata() | {
        "thing_classes": names,
        "thing_colors": colors,
        "stuff_classes": names,
        "stuff_colors": colors,
        "stuff_dataset_id_to_contiguous_id": {i: label for label, i in enumerate(_STUFF_IDS, len(THING_CLASSES))},
    }
