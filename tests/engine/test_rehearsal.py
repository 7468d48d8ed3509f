"""An evaluation that would fail after the training fails before it; one that works leaves nothing but its folder."""

import json
import os

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from torch import nn

from pentamask.engine.checks import BadInput
from pentamask.engine.rehearsal import check_best_metric, make_folder, rehearse_evaluation
from pentamask.evaluation import build_evaluator


class _Finds(nn.Module):
    """Gives what it is told to."""

    def __init__(self, **output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        assert not self.training
        return [dict(self.output) for _ in batched_inputs]


def _nothing(masks: bool = True) -> Instances:
    instances = Instances((40, 60), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    instances.pred_classes = torch.zeros(0, dtype=torch.int64)
    if masks:
        instances.pred_masks = torch.zeros(0, 40, 60, dtype=torch.bool)
    return instances


@pytest.fixture
def test_set(tmp_path):
    """A function that registers "rehearsed", two images of one object each, whose annotations lack some fields."""

    def register(*removed: str) -> list[dict]:
        box = {"category_id": 1, "bbox": [5, 5, 20, 10], "area": 200, "iscrowd": 0}
        box["segmentation"] = [[5, 5, 25, 5, 25, 15, 5, 15]]
        annotations = [{"id": i, "image_id": i, **box} for i in (1, 2)]
        images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (1, 2)]
        contents = {"images": images, "categories": [{"id": 1, "name": "cat"}]}
        contents["annotations"] = [{k: v for k, v in a.items() if k not in removed} for a in annotations]
        (tmp_path / "rehearsed.json").write_text(json.dumps(contents))
        register_coco_instances("rehearsed", {}, str(tmp_path / "rehearsed.json"), str(tmp_path))
        return DatasetCatalog.get("rehearsed")

    yield register
    DatasetCatalog.remove("rehearsed")
    MetadataCatalog.pop("rehearsed")


def _rehearse(records: list[dict], folder, model: nn.Module, evaluator=None) -> list[str]:
    loader = torch.utils.data.DataLoader(records)
    return rehearse_evaluation("rehearsed", evaluator or build_evaluator("rehearsed", str(folder)), loader, model)


def test_a_model_that_finds_nothing_is_evaluated(test_set, tmp_path, capsys):
    model = _Finds(instances=_nothing()).train()
    metrics = _rehearse(test_set(), tmp_path / "out", model)
    assert {"bbox/AP", "segm/AP", "segm/AP50"} <= set(metrics)
    assert os.listdir(tmp_path / "out") == [] and model.training and capsys.readouterr().out == ""


def test_without_masks_there_is_no_mask_ap(test_set, tmp_path):
    metrics = _rehearse(test_set(), tmp_path, _Finds(instances=_nothing(masks=False)))
    assert "bbox/AP" in metrics and not any(metric.startswith("segm") for metric in metrics)


def test_what_an_evaluation_lacks_is_said(test_set, tmp_path):
    records = test_set("area")
    model = _Finds(instances=_nothing())
    with pytest.raises(BadInput, match=r"'rehearsed' cannot be evaluated: KeyError: 'area'"):
        _rehearse(records, tmp_path, model, COCOEvaluator("rehearsed", output_dir=str(tmp_path)))
    with pytest.raises(BadInput, match=r"'rehearsed' cannot be evaluated: .*needs 'instances', which this model"):
        _rehearse([{**records[0]}], tmp_path, _Finds(sem_seg=torch.zeros(2, 40, 60)), _NeedsInstances())
    with pytest.raises(BadInput, match=r"'rehearsed' has no images"):
        _rehearse([], tmp_path, model)


class _NeedsInstances:
    def reset(self) -> None:
        pass

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        outputs[0]["instances"]


def test_output_folders_that_cannot_be_made(tmp_path):
    make_folder(str(tmp_path / "a" / "b"), "OUTPUT_DIR")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(BadInput, match=rf"OUTPUT_DIR '{path}' cannot be made: "):
            make_folder(str(path), "OUTPUT_DIR")


def test_the_metric_of_the_best_checkpoint():
    check_best_metric("SOLVER.BEST_METRIC", "segm/AP", ["bbox/AP", "segm/AP"])
    check_best_metric("SOLVER.BEST_METRIC", "", ["bbox/AP"])
    with pytest.raises(BadInput, match=r"SOLVER.BEST_METRIC is 'segm/ap'; the evaluation gives bbox/AP, segm/AP"):
        check_best_metric("SOLVER.BEST_METRIC", "segm/ap", ["bbox/AP", "segm/AP"])
