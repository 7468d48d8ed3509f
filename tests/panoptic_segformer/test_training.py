"""Trainer, data and Detectron2's evaluators with the model, on a few generated images."""

import pytest
import torch
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, DatasetEvaluators, SemSegEvaluator

from pentamask import model_zoo
from pentamask.engine.checks import BadInput
from pentamask.engine.trainer import Trainer


@pytest.fixture
def cfg(shapes, tmp_path):
    cfg = model_zoo.get_config("shapes/PanopticSegFormer_R_50_thin.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 2, 2, ()
    cfg.MODEL.PANOPTIC_SEGFORMER.NUM_QUERIES = 10
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    return cfg


@pytest.mark.parametrize("form, evaluators", [("", 2), ("_separated", 3)])
def test_train_and_evaluate(cfg, form, evaluators):
    cfg.DATASETS.TRAIN = (f"shapes_train_panoptic{form}",)
    cfg.DATASETS.TEST = (f"shapes_val_panoptic{form}",)
    trainer = Trainer(cfg)
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.train()
    changed = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters())]
    assert sum(changed) > 0.9 * len(changed)
    with torch.no_grad():  # some segment in every image
        for branch in trainer.model.cls_stuff_branches:
            branch.bias.fill_(5.0)
        trainer.model.stuff_mask_decoder.tail.linear.bias.fill_(1.0)
    evaluator = Trainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])
    assert isinstance(evaluator, DatasetEvaluators)
    kinds = (COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator)
    assert len(evaluator._evaluators) == evaluators and all(isinstance(e, kinds) for e in evaluator._evaluators)
    results = Trainer.test(cfg, trainer.model, evaluator)
    assert {"panoptic_seg", "segm", "bbox"} <= set(results)


@pytest.mark.parametrize("key, wrong, right", [("NUM_STUFF_CLASSES", 4, 3), ("NUM_THING_CLASSES", 80, 6)])
@pytest.mark.parametrize("form", ["", "_separated"])
def test_wrong_class_counts_stop_before_training(cfg, form, key, wrong, right):
    cfg.DATASETS.TRAIN = (f"shapes_train_panoptic{form}",)
    cfg.MODEL.PANOPTIC_SEGFORMER[key] = wrong
    with pytest.raises(BadInput, match=f"has {right} .*{key} is {wrong}.*Set MODEL.PANOPTIC_SEGFORMER.{key} {right}"):
        Trainer.build_train_loader(cfg)
