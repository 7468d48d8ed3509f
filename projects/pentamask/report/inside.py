"""The part of a report that needs the model: pictures of what goes on inside it."""

import copy
import os

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from omegaconf import DictConfig

from pentamask.data.panoptic import find_metadata
from pentamask.data.pictures import read_record_picture
from pentamask.engine.lazy import dataset_names
from pentamask.engine.predictor import Predictor
from pentamask.plugin import declared, find_model_class
from pentamask.visualize.explanation import save_explanation
from pentamask.visualize.predictions import with_class_names

from .build import write_report
from .runs import EXPLAINED

_NUM_IMAGES, _NUM_INSTANCES = 2, 2


def report_run(cfg: CfgNode | DictConfig, folder: str, weights: str, output: str, *, num_images: int = 40) -> str:
    """Draw what goes on inside the model for the first test images, and write the report of an evaluated run.

    Args:
        cfg: of the run, of either kind.
        folder: its OUTPUT_DIR; the pictures are kept there.
        weights: the checkpoint.
        output, num_images: see `write_report`.

    Returns:
        The path of index.html.
    """
    _explain_images(cfg, weights, os.path.join(folder, EXPLAINED))
    return write_report([folder], output, num_images=num_images)


def _explain_images(cfg: CfgNode | DictConfig, weights: str, folder: str) -> None:
    """Nothing for a model whose class declares no `explain`."""
    if declared(find_model_class(cfg), "explain") is None:
        return
    if isinstance(cfg, CfgNode):
        cfg, names = cfg.clone(), cfg.DATASETS.TEST
        cfg.defrost()
        cfg.MODEL.WEIGHTS = weights
    else:
        cfg, names = copy.deepcopy(cfg), dataset_names(cfg, "test")
        cfg.train.init_checkpoint = weights
    predictor = Predictor(cfg)
    metadata = with_class_names(find_metadata(names[0]))
    for record in DatasetCatalog.get(names[0])[:_NUM_IMAGES]:
        picture, parts = predictor.explain(read_record_picture(record, "BGR"), _NUM_INSTANCES)
        name = os.path.splitext(os.path.basename(record["file_name"]))[0]
        save_explanation(picture, parts, metadata, os.path.join(folder, name))
