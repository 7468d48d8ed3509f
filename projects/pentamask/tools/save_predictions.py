"""Writes what a model finds for other programs to read: COCO's results, and masks as PNG files."""

import json
import os

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image

from pentamask.engine.rehearsal import make_folder


class Saver:
    """Collects the predictions of images; with neither file nor folder it does nothing."""

    def __init__(self, json_file: str | None = None, mask_folder: str | None = None) -> None:
        """
        Args:
            json_file: for all instances in COCO's format of results, with RLE masks and "file_name" beside "image_id",
                the number of the image, from 0. Of a video that is the frame's number, and "track_id" the object's.
                "category_id" is the dataset's where it says so, else the model's.
            mask_folder: for NAME_0.png, NAME_1.png ... of an image's instances, 255 inside; of a panoptic model for
                NAME.png with the segments' ids (16 bit) instead, and NAME.json with what they are.

        Raises:
            BadInput: a folder cannot be made.
        """
        self.json_file, self.mask_folder = json_file, mask_folder
        self._results: list[dict] = []
        self._num_images = 0
        if json_file is not None:
            make_folder(os.path.dirname(json_file) or ".", "The folder of --save-json")
        if mask_folder is not None:
            make_folder(mask_folder, "--save-masks")

    def add(self, path: str, predictions: dict, metadata: Metadata) -> None:
        """Take the predictions for an image, above its threshold; masks are written at once.

        Args:
            path: of the image.
            predictions: a model's output for it.
            metadata: of the dataset.
        """
        number, self._num_images = self._num_images, self._num_images + 1
        if self.json_file is not None and "instances" in predictions:
            ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
            originals = {label: dataset_id for dataset_id, label in ids.items()}
            found = predictions["instances"].to("cpu")
            tracks = found.ID.tolist() if found.has("ID") else None
            for i, result in enumerate(instances_to_coco_json(found, number)):
                if tracks is not None:
                    result["track_id"] = tracks[i]
                result["category_id"] = originals.get(result["category_id"], result["category_id"])
                self._results.append({**result, "file_name": path})
        if self.mask_folder is not None:
            self._write_masks(os.path.join(self.mask_folder, os.path.splitext(os.path.basename(path))[0]), predictions)

    def _write_masks(self, stem: str, predictions: dict) -> None:
        if "panoptic_seg" in predictions:
            id_map, segments = predictions["panoptic_seg"]
            Image.fromarray(id_map.cpu().numpy().astype(np.uint16)).save(f"{stem}.png")
            with open(f"{stem}.json", "w") as file:
                json.dump(segments, file)
        elif "instances" in predictions and predictions["instances"].has("pred_masks"):
            for i, mask in enumerate(predictions["instances"].pred_masks.cpu().numpy()):
                Image.fromarray(mask.astype(np.uint8) * 255).save(f"{stem}_{i}.png")

    def finish(self) -> None:
        """Write the file of results."""
        if self.json_file is not None:
            with open(self.json_file, "w") as file:
                json.dump(self._results, file)
