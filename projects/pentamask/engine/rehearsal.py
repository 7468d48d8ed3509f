"""Tries evaluation and training on little data, so that whatever is missing is reported before training."""

import contextlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    SemSegEvaluator,
    inference_context,
)
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from detectron2.utils.file_io import PathManager
from torch import nn

from pentamask.data.loader import ResumableLoader
from pentamask.data.panoptic import PanopticLabels
from pentamask.engine.checks import BadInput


def rehearse_evaluation(name: str, evaluator: DatasetEvaluator, loader: Iterable, model: nn.Module) -> list[str]:
    """Let `evaluator` judge what `model` gives for one picture; nothing but the output folders stays.

    Args:
        name: of the dataset.
        evaluator: Detectron2's or a user's; not to be used afterwards.
        loader: of the dataset.
        model: trained or not. In place of its instances, of which there may be none, one fills the picture.

    Returns:
        The names of those metrics that one picture gives, such as "segm/AP".

    Raises:
        BadInput: the model or the evaluation fails; names the dataset and the reason.
    """
    parts = getattr(evaluator, "_evaluators", [evaluator])
    for folder in {getattr(part, "_output_dir", None) or "" for part in parts} - {""}:
        make_folder(folder, "The evaluation's output folder")
    samples = getattr(loader, "dataset", None)
    if samples is not None and not len(samples):
        raise BadInput(f"Dataset {name!r} has no images to evaluate on.")
    try:
        sample = next(iter(loader))[0] if samples is None else samples[0]
        with _quiet():
            output = _predict(model, sample, MetadataCatalog.get(name))
    except Exception as error:  # a mapper and a model may be anybody's, and fail with anything
        raise BadInput(f"The model cannot be run on the first picture of {name!r}: {_reason(error)}") from error
    try:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            results = [_try(part, sample, output, folder) for part in parts]
    except Exception as error:  # so may an evaluator
        raise BadInput(f"Dataset {name!r} cannot be evaluated: {_reason(error)}") from error
    return [f"{task}/{metric}" for part in results for task, values in part.items() for metric in values]


def rehearse_training(model: nn.Module, loader: Iterable) -> None:
    """Compute the losses of the first batch, so that data that do not fit the model are reported before training.

    Args:
        model: as trained; its buffers are afterwards what they were.
        loader: of the training; only a `ResumableLoader` can give its first batch twice.

    Raises:
        BadInput: a picture cannot be mapped, or the model cannot learn from it.
    """
    if not isinstance(loader, ResumableLoader):
        return
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        batch = loader.first_batch()
        with _quiet(), torch.no_grad(), EventStorage():
            model.train()
            model(batch)
    except (FloatingPointError, torch.OutOfMemoryError):
        pass  # the training explains them better
    except Exception as error:  # whatever a mapper or model fails with
        raise BadInput(f"The first batch cannot be trained on: {_reason(error)}") from error
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def make_folder(path: str, what: str) -> None:
    """Make a folder for output unless it is there.

    Raises:
        BadInput: it cannot be made or written to; `what` says what it is.
    """
    try:
        PathManager.mkdirs(path)
    except OSError as error:
        raise BadInput(f"{what} {path!r} cannot be made: {error.strerror or error}.") from error
    if "://" in path:
        return
    if not os.path.isdir(path):
        raise BadInput(f"{what} {path!r} cannot be made: there is a file of that name.")
    if not os.access(path, os.W_OK):
        raise BadInput(f"{what} {path!r} cannot be written to.")


def check_best_metric(key: str, wanted: str, metrics: Sequence[str]) -> None:
    """Raise `BadInput` if the metric that config key `key` asks for is none of `metrics`; "" asks for none."""
    if wanted and metrics and wanted not in metrics:
        raise BadInput(f"{key} is {wanted!r}; the evaluation gives {', '.join(metrics)}.")


def _predict(model: nn.Module, sample: dict, metadata: Metadata) -> dict:
    """What `model` gives for a sample of the test loader, with one instance of the first thing class."""
    with inference_context(model), torch.no_grad():
        (output,) = model([sample])
    if "instances" in output:
        height, width = output["instances"].image_size
        things = PanopticLabels.of(metadata).thing_ids or (0,)
        one = Instances((height, width), scores=torch.ones(1), pred_classes=torch.tensor(things[:1]))
        one.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, width, height]]))
        if output["instances"].has("pred_masks"):
            one.pred_masks = torch.ones((1, height, width), dtype=torch.bool)
        output["instances"] = one
    return output


def _try(part: DatasetEvaluator, sample: dict, output: dict, folder: str) -> dict:
    """The results of one evaluator for one picture; {} of those that judge the whole dataset at once."""
    if hasattr(part, "_output_dir"):
        part._output_dir = folder
    if isinstance(part, COCOPanopticEvaluator):
        part._metadata = _only_of(sample, part._metadata, folder)
    part.reset()
    part.process([sample], [output])
    if isinstance(part, COCOEvaluator):
        return part.evaluate(img_ids=[sample["image_id"]]) or {}
    if isinstance(part, (SemSegEvaluator, COCOPanopticEvaluator)):
        return part.evaluate() or {}
    return {}


def _only_of(sample: dict, metadata: Metadata, folder: str) -> Metadata:
    """Panoptic metadata whose ground truth is that of one image."""
    with PathManager.open(metadata.panoptic_json) as file:
        truth: dict[str, Any] = json.load(file)
    for key, id_key in (("images", "id"), ("annotations", "image_id")):
        truth[key] = [x for x in truth.get(key, ()) if x[id_key] == sample["image_id"]]
    path = os.path.join(folder, f"first_{comm.get_rank()}.json")
    with open(path, "w") as file:
        json.dump(truth, file)
    return Metadata(**metadata.as_dict() | {"panoptic_json": path})


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError) and error.args and error.args[0] in ("instances", "sem_seg", "panoptic_seg"):
        return f"its evaluation needs {error.args[0]!r}, which this model does not give. Choose another test set."
    message = " ".join(str(error).split())
    return message if isinstance(error, (BadInput, OSError)) else f"{type(error).__name__}: {message}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, nobody logs or prints: results of a rehearsal would look like those of a model."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
