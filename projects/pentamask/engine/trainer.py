"""Detectron2's DefaultTrainer with this project's data, evaluators, checkpointer and error messages."""

import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.data.loader import build_train_loader
from pentamask.data.mapper import MaskDatasetMapper
from pentamask.engine.checks import (
    check_class_counts,
    check_dataset_files,
    checked_loading,
    dataset_errors,
    mask_format,
)
from pentamask.engine.early_stopping import early_ending
from pentamask.engine.ema import EMAHook
from pentamask.engine.launch import distribute
from pentamask.engine.loss_report import LossReport
from pentamask.engine.optimizer import build_optimizer
from pentamask.engine.rehearsal import check_best_metric, rehearse_evaluation
from pentamask.engine.resume import add_resume_hooks, complete_last_line, resume_or_load
from pentamask.engine.step import StepTrainer, find_precision, mixed_precision
from pentamask.engine.tta import ModelWithTTA
from pentamask.evaluation import build_evaluator
from pentamask.optimize import compile_dense_parts


class Trainer(DefaultTrainer):
    """Trains and evaluates any model of Detectron2's registry; see `DefaultTrainer` for the attributes.

    A project of its own inherits from this class as it would from `DefaultTrainer`, and overrides what it likes.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)  # the rest as in DefaultTrainer, which cannot distribute a model on the CPU
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        check_class_counts(cfg, cfg.DATASETS.TRAIN)  # also where a subclass makes another loader
        if cfg.MODEL.COMPILE:
            compile_dense_parts(model)
        model = distribute(model, broadcast_buffers=False)
        amp = cfg.SOLVER.AMP
        self._trainer = StepTrainer(
            model,
            loader,
            optimizer,
            precision=find_precision(amp.PRECISION, cfg.MODEL.DEVICE) if amp.ENABLED else None,
            skip_nonfinite=cfg.SOLVER.SKIP_NONFINITE,
            output_dir=cfg.OUTPUT_DIR,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = PentamaskCheckpointer(
            model, cfg.OUTPUT_DIR, partial=cfg.MODEL.WEIGHTS_PARTIAL, trainer=weakref.proxy(self)
        )
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self._loss_report = LossReport(model)
        ema = cfg.MODEL_EMA
        self.ema = EMAHook(model, ema.DECAY, cfg.OUTPUT_DIR) if ema.ENABLED else None
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's, with those of `pentamask.engine.resume`."""
        return add_resume_hooks(
            super().build_hooks(),
            self.model,
            self.data_loader,
            self.checkpointer,
            max_to_keep=self.cfg.SOLVER.CHECKPOINT_KEEP,
            best_metric=self.cfg.SOLVER.BEST_METRIC,
            early_stopping=(self.cfg.SOLVER.EARLY_STOPPING.METRIC, self.cfg.SOLVER.EARLY_STOPPING.PATIENCE),
            ema=self.ema,
            evaluate=lambda: self._evaluate(),
            evaluate_last=(lambda: self._evaluate_with_tta()) if self.cfg.TEST.AUG.ENABLED else None,
        )

    def _evaluate(self) -> dict:
        """Test the model, and its average if there is one."""
        self._last_eval_results = self.test(self.cfg, self.model)
        if self.ema is not None:
            self._last_eval_results.update(self.ema.evaluate_too(lambda model: self.test(self.cfg, model)))
        return self._last_eval_results

    def _evaluate_with_tta(self) -> dict:
        """Test the model with test-time augmentation; kept beside the results of the last evaluation."""
        results = self.test_with_TTA(self.cfg, self.model)
        self._last_eval_results.update(results)
        return results

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's, which append to what a killed training left."""
        complete_last_line(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"))
        return super().build_writers()

    def resume_or_load(self, resume: bool = True) -> None:
        """As Detectron2's; resumes exactly, from the newest checkpoint that is whole."""
        self.start_iter = resume_or_load(self, self.checkpointer, self.cfg.MODEL.WEIGHTS, resume=resume)

    def train(self) -> dict | None:
        """As Detectron2's; SOLVER.EARLY_STOPPING may end it before MAX_ITER."""
        with early_ending():
            return super().train()
        return None

    def run_step(self) -> None:
        """One iteration.

        Raises:
            FloatingPointError: a loss is not finite; names it, the learning rate and the images.
        """
        try:
            super().run_step()
        except FloatingPointError as error:
            raise self._loss_report.explain(error, self.iter, self.optimizer.param_groups[0]["lr"]) from error

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See `pentamask.engine.optimizer`."""
        return build_optimizer(cfg, model)

    @property
    def last_results(self) -> dict:
        """Task to metric to value of the last evaluation during training; empty before the first."""
        return getattr(self, "_last_eval_results", {})

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        """The `ResumableLoader` of DATASETS.TRAIN with `MaskDatasetMapper`.

        Raises:
            BadInput: the data cannot be loaded, or has another number of classes than the model.
        """
        mapper = MaskDatasetMapper(cfg, is_train=True)
        with checked_loading(cfg.DATASETS.TRAIN, train=True, masks=mask_format(cfg, "train")):
            loader = build_train_loader(cfg, mapper=mapper)
        check_dataset_files(cfg.DATASETS.TRAIN)
        check_class_counts(cfg, cfg.DATASETS.TRAIN)
        return loader

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        """Detectron2's loader of one dataset for inference with `MaskDatasetMapper`; raises as `build_train_loader`."""
        with checked_loading([dataset_name], train=False, masks=mask_format(cfg, "test")):
            loader = build_detection_test_loader(cfg, dataset_name, mapper=MaskDatasetMapper(cfg, is_train=False))
        check_dataset_files([dataset_name])
        check_class_counts(cfg, [dataset_name])
        return loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """The evaluators for a dataset; they write to `output_folder`, by default OUTPUT_DIR/inference."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        # As Detectron2 does it, but the results of several sets would overwrite each other.
        folder = os.path.join(folder, dataset_name) if len(cfg.DATASETS.TEST) > 1 else folder
        return build_evaluator(dataset_name, folder)

    @classmethod
    def rehearse_test(cls, cfg: CfgNode, model: nn.Module) -> None:
        """Build everything that the evaluation of DATASETS.TEST needs and try it on one picture of each, with
        test-time augmentation if TEST.AUG.ENABLED.

        Raises:
            BadInput: a set cannot be evaluated, or SOLVER.BEST_METRIC is no metric.
        """
        metrics = []
        model = cls.build_tta_model(cfg, model) if cfg.TEST.AUG.ENABLED else model
        for name in cfg.DATASETS.TEST:
            loader = cls.build_test_loader(cfg, name)
            with dataset_errors([name]):
                evaluator = cls.build_evaluator(cfg, name)
            found = rehearse_evaluation(name, evaluator, loader, model)
            metrics += [f"{name}/{metric}" for metric in found] if len(cfg.DATASETS.TEST) > 1 else found
        check_best_metric("SOLVER.BEST_METRIC", cfg.SOLVER.BEST_METRIC, metrics)
        check_best_metric("SOLVER.EARLY_STOPPING.METRIC", cfg.SOLVER.EARLY_STOPPING.METRIC, metrics)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> dict:
        """Detectron2's evaluation on DATASETS.TEST, in mixed precision if TEST.AMP.ENABLED."""
        with mixed_precision(cfg.TEST.AMP.ENABLED, cfg.TEST.AMP.PRECISION, cfg.MODEL.DEVICE):
            return super().test(cfg, model, evaluators)

    @classmethod
    def build_tta_model(cls, cfg: CfgNode, model: nn.Module) -> ModelWithTTA:
        """`model` with the test-time augmentation of TEST.AUG."""
        return ModelWithTTA(
            model,
            min_sizes=cfg.TEST.AUG.MIN_SIZES,
            max_size=cfg.TEST.AUG.MAX_SIZE,
            flip=cfg.TEST.AUG.FLIP,
            nms_thresh=cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        )

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> dict:
        """Evaluate with test-time augmentation; the names of the results end in "_TTA"."""
        model = cls.build_tta_model(cfg, model)
        evaluators = [
            cls.build_evaluator(cfg, name, output_folder=os.path.join(cfg.OUTPUT_DIR, "inference_TTA"))
            for name in cfg.DATASETS.TEST
        ]
        results = cls.test(cfg, model, evaluators)
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())
