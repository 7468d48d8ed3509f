"""Trains and evaluates what a LazyConfig describes, as Detectron2's lazyconfig_train_net.py."""

import copy
import logging
import os
from typing import Any

from detectron2.config import instantiate
from detectron2.engine import HookBase, SimpleTrainer, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.engine.checks import (
    check_class_names,
    check_dataset_files,
    check_lazy_class_counts,
    check_registered,
    checked_loading,
    dataset_errors,
    mask_format,
)
from pentamask.engine.config_checks import building_errors
from pentamask.engine.dry_run import Plan, dry_run
from pentamask.engine.early_stopping import early_ending
from pentamask.engine.ema import EMAHook
from pentamask.engine.inference import build_any_model, load_for_inference
from pentamask.engine.launch import distribute
from pentamask.engine.load_config import dataset_names
from pentamask.engine.loss_report import LossReport
from pentamask.engine.rehearsal import check_best_metric, rehearse_evaluation, rehearse_training
from pentamask.engine.resume import add_resume_hooks, complete_last_line, resume_or_load
from pentamask.engine.step import StepTrainer, find_precision, mixed_precision
from pentamask.engine.tta import ModelWithTTA
from pentamask.optimize import compile_dense_parts


def evaluate_lazy(cfg: DictConfig, model: nn.Module) -> dict:
    """The results of `model` on `cfg.dataloader.test`: task to metric to value, of several datasets name to those.

    They are empty without `cfg.dataloader.evaluator`.
    """
    results, amp = {}, cfg.train.get("test_amp", {})
    for name, part in _test_sets(cfg).items():
        evaluator = instantiate(part.dataloader.evaluator)
        with mixed_precision(amp.get("enabled", False), amp.get("precision", "fp16"), cfg.train.device):
            results[name] = inference_on_dataset(model, _build_loader(part, "test"), evaluator)
        print_csv_format(results[name])
    return next(iter(results.values())) if len(results) == 1 else results


def rehearse_lazy(cfg: DictConfig, model: nn.Module) -> None:
    """As `Trainer.rehearse_test`."""
    metrics, sets = [], _test_sets(cfg)
    model = _with_tta(cfg, model) if _wants_tta(cfg) else model
    for name, part in sets.items():
        loader = _build_loader(part, "test")
        with dataset_errors([name]):
            evaluator = instantiate(part.dataloader.evaluator)
        found = rehearse_evaluation(name, evaluator, loader, model)
        metrics += [f"{name}/{metric}" for metric in found] if len(sets) > 1 else found
    check_best_metric("train.checkpointer.best_metric", cfg.train.checkpointer.get("best_metric", ""), metrics)
    check_best_metric("train.early_stopping.metric", _early_stopping(cfg)[0], metrics)


def _early_stopping(cfg: DictConfig) -> tuple[str, int]:
    node = cfg.train.get("early_stopping", {})
    return node.get("metric", ""), node.get("patience", 1)


def _wants_tta(cfg: DictConfig) -> bool:
    return OmegaConf.select(cfg, "train.test_aug.enabled", default=False)


def _with_tta(cfg: DictConfig, model: nn.Module) -> ModelWithTTA:
    options = {key: value for key, value in cfg.train.test_aug.items() if key != "enabled"}
    return ModelWithTTA(model, **options)


def _evaluate_tta(cfg: DictConfig, model: nn.Module) -> dict:
    """As `Trainer.test_with_TTA`."""
    cfg = copy.deepcopy(cfg)
    if "output_folder" in cfg.dataloader.get("evaluator", {}):
        cfg.dataloader.evaluator.output_folder += "_TTA"
    return {f"{name}_TTA": value for name, value in evaluate_lazy(cfg, _with_tta(cfg, model)).items()}


def _test_sets(cfg: DictConfig) -> dict[str, DictConfig]:
    """For every test dataset `cfg` with that one only; none without an evaluator."""
    if "evaluator" not in cfg.dataloader:
        return {}
    names = dataset_names(cfg, "test")
    if len(names) == 1:
        return {names[0]: cfg}
    parts = {name: copy.deepcopy(cfg) for name in names}
    for name, part in parts.items():
        part.dataloader.test.dataset.names = name
        part.dataloader.evaluator.dataset_name = name
        # The results of several sets would overwrite each other.
        part.dataloader.evaluator.output_folder = os.path.join(part.dataloader.evaluator.output_folder, name)
    return parts


def run_lazy(cfg: DictConfig, *, resume: bool, eval_only: bool, try_only: bool = False) -> dict:
    """Train, or only evaluate, and return the results of the last evaluation.

    Args:
        cfg: with `model`, `dataloader`, `optimizer`, `lr_multiplier` and `train`, see configs/common/.
        resume: go on from the last checkpoint in `cfg.train.output_dir`.
        eval_only: do not train.
        try_only: print what a training would do, see `dry_run`, and return nothing.

    Raises:
        BadInput: the data cannot be loaded, or has another number of classes than the model.
        FloatingPointError: a loss is not finite; names it, the learning rate and the images.
    """
    model = build_any_model(cfg)
    return _evaluate(cfg, model, resume) if eval_only else _train(cfg, model, resume, try_only)


def _evaluate(cfg: DictConfig, model: nn.Module, resume: bool) -> dict:
    load_for_inference(cfg, model, resume=resume)
    rehearse_lazy(cfg, model)
    results = evaluate_lazy(cfg, model)
    return results | _evaluate_tta(cfg, model) if _wants_tta(cfg) else results


def _train(cfg: DictConfig, model: nn.Module, resume: bool, try_only: bool) -> dict:
    if cfg.train.get("compile", False):
        compile_dense_parts(model)
    logging.getLogger("detectron2").info("Model:\n%s", model)
    with building_errors(cfg):
        trainer = _build_trainer(cfg, model)
    check_class_names(dataset_names(cfg, "train"), dataset_names(cfg, "test"), masks=mask_format(cfg, "test"))
    rehearse_lazy(cfg, model)
    rehearse_training(model, trainer.data_loader)
    if try_only:
        loaders = {name: _build_loader(part, "test") for name, part in _test_sets(cfg).items()}
        train = cfg.train
        batch_size = cfg.dataloader.train.total_batch_size
        print(dry_run(trainer, loaders, Plan(train.max_iter, train.eval_period, train.checkpointer.period, batch_size)))
        return {}
    partial = cfg.train.get("weights_partial", False)
    checkpointer = PentamaskCheckpointer(trainer.model, cfg.train.output_dir, partial=partial, trainer=trainer)
    results: dict[str, Any] = {}
    trainer.register_hooks(_build_hooks(cfg, trainer, checkpointer, results))
    start_iter = resume_or_load(trainer, checkpointer, cfg.train.init_checkpoint, resume=resume)
    report = LossReport(trainer.model)
    try:
        with early_ending():
            trainer.train(start_iter, cfg.train.max_iter)
    except FloatingPointError as error:
        raise report.explain(error, trainer.iter, trainer.optimizer.param_groups[0]["lr"]) from error
    return results


def _build_hooks(
    cfg: DictConfig, trainer: SimpleTrainer, checkpointer: PentamaskCheckpointer, results: dict[str, Any]
) -> list[HookBase]:
    """The hooks of a training; `results` is filled with those of the last evaluation."""
    ema = None
    if OmegaConf.select(cfg, "train.model_ema.enabled", default=False):
        ema = EMAHook(trainer.model, cfg.train.model_ema.decay, cfg.train.output_dir)

    def evaluate() -> dict:
        results.clear()
        results.update(evaluate_lazy(cfg, trainer.model))
        if ema is not None:
            results.update(ema.evaluate_too(lambda model: evaluate_lazy(cfg, model)))
        return results

    def evaluate_last() -> dict:
        found = _evaluate_tta(cfg, trainer.model)
        results.update(found)
        return found

    main = comm.is_main_process()
    complete_last_line(os.path.join(cfg.train.output_dir, "metrics.json"))
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter) if main else None
    built = [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        hooks.PeriodicCheckpointer(checkpointer, cfg.train.checkpointer.period) if main else None,
        hooks.EvalHook(cfg.train.eval_period, evaluate),
        hooks.PeriodicWriter(writers, period=cfg.train.log_period) if main else None,
    ]
    return add_resume_hooks(
        [hook for hook in built if hook is not None],
        trainer.model,
        trainer.data_loader,
        checkpointer,
        max_to_keep=cfg.train.checkpointer.get("max_to_keep", 0),
        best_metric=cfg.train.checkpointer.get("best_metric", ""),
        early_stopping=_early_stopping(cfg),
        ema=ema,
        evaluate=evaluate,
        evaluate_last=evaluate_last if _wants_tta(cfg) else None,
    )


def _build_trainer(cfg: DictConfig, model: nn.Module) -> SimpleTrainer:
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = _build_loader(cfg, "train")
    model = distribute(model, **cfg.train.ddp)
    amp = cfg.train.amp
    return StepTrainer(
        model,
        loader,
        optimizer,
        precision=find_precision(amp.get("precision", "fp16"), cfg.train.device) if amp.enabled else None,
        skip_nonfinite=cfg.train.get("skip_nonfinite", 0),
        output_dir=cfg.train.output_dir,
    )


def _build_loader(cfg: DictConfig, split: str) -> Any:
    """Make the loader `cfg.dataloader[split]`; what is wrong with its datasets is reported as for YAML configs."""
    names = dataset_names(cfg, split)
    for name in names:
        check_registered(name, f"dataloader.{split}.dataset.names")
    with checked_loading(names, train=split == "train", masks=mask_format(cfg, split)):
        loader = instantiate(cfg.dataloader[split])
    check_dataset_files(names)
    check_lazy_class_counts(cfg, names)
    return loader
