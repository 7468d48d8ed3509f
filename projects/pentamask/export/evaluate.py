"""AP and PQ of an exported file, by the evaluators of its dataset."""

import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, SemSegEvaluator
from detectron2.structures import Boxes, Instances
from pentamask_runner import Result, Runner
from torch import Tensor

from pentamask.data.pictures import read_record_picture
from pentamask.evaluation import build_evaluator


def evaluate_file(runner: Runner, dataset_name: str, output_folder: str) -> dict:
    """Detectron2's results, task to metric to value, of a file on a registered dataset.

    Args:
        runner: of the file.
        dataset_name: of the dataset; of a panoptic one, the semantic maps are not evaluated, which runners do not give.
        output_folder: see `build_evaluator`.
    """
    evaluators = DatasetEvaluators(_without_semantic(build_evaluator(dataset_name, output_folder)))
    evaluators.reset()
    for record in DatasetCatalog.get(dataset_name):
        pixels = read_record_picture(record, "RGB")
        evaluators.process([record], [as_predictions(runner(pixels), pixels.shape[:2])])
    return evaluators.evaluate()


def as_predictions(result: Result, size: tuple[int, int]) -> dict[str, Instances | tuple[Tensor, list[dict]]]:
    """What a runner found in a picture of (height, width), in the format of Detectron2's models."""
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.from_numpy(result.boxes))
    instances.scores, instances.pred_classes = torch.from_numpy(result.scores), torch.from_numpy(result.classes)
    if result.masks is not None:
        instances.pred_masks = torch.from_numpy(result.masks)
    if result.mask_scores is not None:
        instances.mask_scores = torch.from_numpy(result.mask_scores)
    if result.panoptic is None:
        return {"instances": instances}
    ids, segments = result.panoptic
    return {"instances": instances, "panoptic_seg": (torch.from_numpy(ids), segments)}


def _without_semantic(evaluator: DatasetEvaluator) -> list[DatasetEvaluator]:
    parts = evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]
    return [part for part in parts if not isinstance(part, SemSegEvaluator)]
