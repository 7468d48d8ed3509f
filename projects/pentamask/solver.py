"""Config keys of optimizers, checkpoints and weights that Detectron2 does not have."""

from typing import Any

from detectron2.config import CfgNode

from pentamask.common import add_defaults

_REMEDY = (
    "Detectron2's own build_optimizer was asked for, which does not know it. Train with pentamask.engine.Trainer or a "
    "subclass of it, or return pentamask.engine.build_optimizer(cfg, model) from your trainer's build_optimizer."
)


class _MergeableWithCfgNode(type):
    """Equal to CfgNode: yacs merges a node into another only if their types are equal."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is CfgNode

    __hash__ = type.__hash__


class SolverNode(CfgNode, metaclass=_MergeableWithCfgNode):
    """A config node that stops Detectron2's `build_optimizer` from training with another optimizer than asked for.

    That function knows nothing of OPTIMIZER and would quietly take SGD. It is recognised by the keys that it alone
    reads as attributes: MOMENTUM here and CLIP_TYPE in CLIP_GRADIENTS.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "MOMENTUM" and self.get("OPTIMIZER", "SGD") != "SGD":
            raise ValueError(f"SOLVER.OPTIMIZER is {self['OPTIMIZER']!r}, but {_REMEDY}")
        if name == "CLIP_TYPE" and self.get("CLIP_TYPE") == "full_model":
            raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is 'full_model', but {_REMEDY}")
        return super().__getattr__(name)


def add_solver_config(cfg: CfgNode) -> None:
    """Add the keys that `pentamask.engine` reads beyond Detectron2's, in place; set keys are kept.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    if not isinstance(cfg.SOLVER, SolverNode):
        cfg.SOLVER = SolverNode(cfg.SOLVER)
        cfg.SOLVER.CLIP_GRADIENTS = SolverNode(cfg.SOLVER.CLIP_GRADIENTS)
    # "SGD" or "ADAMW". With AdamW the learning rate of the backbone is multiplied by BACKBONE_MULTIPLIER, and
    # CLIP_GRADIENTS.CLIP_TYPE is "full_model".
    add_defaults(cfg.SOLVER, OPTIMIZER="SGD", BACKBONE_MULTIPLIER=1.0)
    # Pairs of a regular expression and the factor for the learning rate of parameters whose name it matches.
    add_defaults(cfg.SOLVER, LR_MULTIPLIERS=[])
    # Newest checkpoints to keep, 0 for all; and a metric whose best checkpoint is also kept, such as "segm/AP".
    add_defaults(cfg.SOLVER, CHECKPOINT_KEEP=0, BEST_METRIC="")
    # End when METRIC, such as "segm/AP", has had no new best value for PATIENCE evaluations; "" never does.
    add_defaults(cfg.SOLVER, EARLY_STOPPING=dict(METRIC="", PATIENCE=5))
    # With an IMS_PER_BATCH on the command line, scale the file's learning rate and schedule to it, see load_config.
    add_defaults(cfg.SOLVER, AUTO_SCALE=False)
    # Load what fits of MODEL.WEIGHTS, even if it is of another model or, in evaluation, leaves parts of it random.
    add_defaults(cfg.MODEL, WEIGHTS_PARTIAL=False)
    # Evaluate, and predict, with `pentamask.optimize_for_inference`.
    add_defaults(cfg.MODEL, OPTIMIZE=True)
    # Compile the model's dense parts by torch.compile, in training too.
    add_defaults(cfg.MODEL, COMPILE=False)
    # What SOLVER.AMP.ENABLED and TEST.AMP.ENABLED compute in: "fp16", or "bf16", which also runs on a CPU.
    add_defaults(cfg.SOLVER.AMP, PRECISION="fp16")
    add_defaults(cfg.TEST, AMP=dict(ENABLED=False, PRECISION="fp16"))
    # Steps in a row with an infinite or NaN loss that are left out before the training ends.
    add_defaults(cfg.SOLVER, SKIP_NONFINITE=0)
    # Exponential moving average of the weights, evaluated beside the model.
    add_defaults(cfg, MODEL_EMA=dict(ENABLED=False, DECAY=0.999))
    # Write OUTPUT_DIR/report/index.html at the end of train_net.
    add_defaults(cfg, REPORT=False)
