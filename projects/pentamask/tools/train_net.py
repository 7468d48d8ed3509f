"""Train or evaluate a model: Detectron2's train_net.py, for YAML and LazyConfig files alike.

python -m pentamask.tools.train_net --config-file FCOS/R_50_1x.yaml [--resume] [--eval-only] [--dry-run] [KEY VALUE ...]
"""

import argparse
import logging
import os
import tempfile

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn

from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.common import import_extra
from pentamask.engine.checks import BadInput, check_class_names, check_config, check_weights, mask_format
from pentamask.engine.command_line import add_debug_flag, reported_errors
from pentamask.engine.config_checks import building_errors, check_lazy_values, check_values
from pentamask.engine.dry_run import Plan, dry_run
from pentamask.engine.inference import load_for_inference
from pentamask.engine.launch import launch
from pentamask.engine.lazy import run_lazy
from pentamask.engine.load_config import available_device, find_config_file, load_config, load_lazy_config, overrides_of
from pentamask.engine.rehearsal import make_folder, rehearse_training
from pentamask.engine.trainer import Trainer
from pentamask.report import report_run


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of a YAML file, checked, with loggers and OUTPUT_DIR set up.

    Raises:
        BadInput: see `load_config` and `check_config`.
    """
    setup_logger(distributed_rank=comm.get_rank(), name="pentamask")
    cfg = load_config(args.config_file, args.opts)
    check_config(cfg, resume=args.resume, eval_only=args.eval_only)
    check_values(cfg)
    if cfg.REPORT:
        import_extra("jinja2", "report")  # before work is lost
    make_folder(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="pentamask", configure_stdout=False)
    cfg.MODEL.DEVICE = available_device(cfg.MODEL.DEVICE)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def setup_lazy(args: argparse.Namespace) -> DictConfig:
    """As `setup`, with the same errors, for a LazyConfig file."""
    cfg = load_lazy_config(args.config_file, args.opts)
    check_lazy_values(cfg)
    if cfg.train.get("report", False):
        import_extra("jinja2", "report")
    output_dir = cfg.train.output_dir
    make_folder(output_dir, "train.output_dir")
    check_weights("train.init_checkpoint", cfg.train.init_checkpoint, resume_from=output_dir if args.resume else None)
    setup_logger(output_dir, distributed_rank=comm.get_rank(), name="pentamask")
    cfg.train.device = available_device(cfg.train.device)
    default_setup(cfg, args)
    return cfg


def main(args: argparse.Namespace) -> dict:
    """Train or, with --eval-only, evaluate; with REPORT (train.report) write OUTPUT_DIR/report/index.html.

    Args:
        args: of Detectron2's `default_argument_parser`.

    Returns:
        The evaluation results: task to metric to value.

    Raises:
        BadInput: the user's config, data or files cannot be used.
    """
    if getattr(args, "dry_run", False):
        dry_run_of(args)
        return {}
    cfg, results = run(args)
    if cfg.train.get("report", False) if isinstance(cfg, DictConfig) else cfg.REPORT:
        _write_report(cfg, evaluated_given=args.eval_only and not args.resume)
    return results


def _write_report(cfg: CfgNode | DictConfig, *, evaluated_given: bool) -> None:
    """The report on the newest checkpoint, or on the weights that the config names."""
    if isinstance(cfg, DictConfig):
        folder, weights = cfg.train.output_dir, cfg.train.init_checkpoint
    else:
        folder, weights = cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS
    if not evaluated_given:
        weights = PentamaskCheckpointer(nn.Module(), folder).get_checkpoint_file()
    path = report_run(cfg, folder, weights, os.path.join(folder, "report"))
    if path is not None:
        logging.getLogger(__name__).info("The report is %s", path)


def get_parser() -> argparse.ArgumentParser:
    """Detectron2's flags, and ours."""
    parser = default_argument_parser()
    parser.add_argument(
        "--dry-run", action="store_true", help="train two iterations, then only say what would run, and how long"
    )
    return add_debug_flag(parser, "train_net")


def dry_run_of(args: argparse.Namespace) -> None:
    """`run` without a trace in the output folder: print what a training with these arguments would do.

    Raises:
        BadInput: as `main`; or the arguments ask for no new training.
    """
    if args.resume or args.eval_only:
        raise BadInput("--dry-run tries a new training: leave out --resume and --eval-only.")
    with tempfile.TemporaryDirectory() as folder:
        args.opts = [*args.opts, *overrides_of(args.config_file, {("OUTPUT_DIR", "train.output_dir"): folder})]
        run(args)


def run(args: argparse.Namespace) -> tuple[CfgNode | DictConfig, dict]:
    """`main` without the report; also returns the config."""
    args.config_file = find_config_file(args.config_file)
    if args.config_file.endswith(".py"):
        lazy_cfg = setup_lazy(args)
        try_only = getattr(args, "dry_run", False)
        return lazy_cfg, run_lazy(lazy_cfg, resume=args.resume, eval_only=args.eval_only, try_only=try_only)
    cfg = setup(args)
    if args.eval_only:
        return cfg, evaluate(cfg, resume=args.resume)
    return cfg, train(cfg, resume=args.resume, try_only=getattr(args, "dry_run", False))


def train(cfg: CfgNode, *, resume: bool, try_only: bool = False) -> dict:
    """Train and return the results of the last evaluation; with `try_only` only print what that would be."""
    with building_errors(cfg):
        trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    check_class_names(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, masks=mask_format(cfg, "test"))
    Trainer.rehearse_test(cfg, trainer.model)
    rehearse_training(trainer.model, trainer.data_loader)
    if try_only:
        loaders = {name: trainer.build_test_loader(cfg, name) for name in cfg.DATASETS.TEST}
        cfg = trainer.cfg
        plan = Plan(trainer.max_iter, cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.IMS_PER_BATCH)
        print(dry_run(trainer._trainer, loaders, plan))
        return {}
    trainer.train()
    return trainer.last_results


def evaluate(cfg: CfgNode, *, resume: bool) -> dict:
    """Evaluate MODEL.WEIGHTS (with `resume` the last checkpoint) on DATASETS.TEST and compare with EXPECTED_RESULTS."""
    with building_errors(cfg):
        model = Trainer.build_model(cfg)
    load_for_inference(cfg, model, resume=resume)
    Trainer.rehearse_test(cfg, model)
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_TTA(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def run_process(args: argparse.Namespace) -> None:
    """`main` as each process of a training runs it, with errors in one line."""
    with reported_errors("train_net", debug=args.debug):
        main(args)


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = get_parser().parse_args()
    with reported_errors("train_net", debug=args.debug):
        launch(run_process, args)


if __name__ == "__main__":
    cli()
