"""The part of a report that needs the model: pictures of what goes on inside it."""

import copy
import os
import shutil

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from omegaconf import DictConfig

from pentamask.data.panoptic import find_metadata
from pentamask.data.pictures import read_record_picture
from pentamask.engine.load_config import dataset_names
from pentamask.engine.predictor import Predictor
from pentamask.plugin import declared, find_model_class
from pentamask.visualize.explanation import save_explanation
from pentamask.visualize.predictions import with_class_names

from .build import write_report
from .runs import EXPLAINED

_NUM_IMAGES, _NUM_INSTANCES = 2, 2


def report_run(
    cfg: CfgNode | DictConfig, folder: str, weights: str, output: str, *, num_images: int = 40
) -> str | None:
    """Draw what goes on inside the model for the first test images, and write the report of an evaluated run.

    Every process of a distributed run has to call it, because they load checkpoints together; the main one writes.

    Args:
        cfg: of the run, of either kind.
        folder: its OUTPUT_DIR; the pictures are kept there.
        weights: the checkpoint.
        output, num_images: see `write_report`.

    Returns:
        The path of index.html; None in other processes than the main one.
    """
    names = dataset_names(cfg, "test")
    predictor = Predictor(_with_weights(cfg, weights)) if declared(find_model_class(cfg), "explain") else None
    if not comm.is_main_process():
        return None
    if predictor is not None:
        _explain_images(predictor, names[0], os.path.join(folder, EXPLAINED))
    return write_report([folder], output, num_images=num_images)


def _with_weights(cfg: CfgNode | DictConfig, weights: str) -> CfgNode | DictConfig:
    """A copy of the config that names the checkpoint."""
    cfg = copy.deepcopy(cfg)
    if isinstance(cfg, CfgNode):
        cfg.defrost()
        cfg.MODEL.WEIGHTS = weights
    else:
        cfg.train.init_checkpoint = weights
    return cfg


def _explain_images(predictor: Predictor, dataset: str, folder: str) -> None:
    metadata = with_class_names(find_metadata(dataset))
    shutil.rmtree(folder, ignore_errors=True)  # those of an earlier run, which may have found more
    for number, record in enumerate(DatasetCatalog.get(dataset)[:_NUM_IMAGES]):
        picture, parts = predictor.explain(read_record_picture(record, "BGR"), _NUM_INSTANCES)
        name = os.path.splitext(os.path.basename(record["file_name"]))[0]
        # Images in several folders may have the same name.
        save_explanation(picture, parts, metadata, os.path.join(folder, f"{number:03}_{name}"))
