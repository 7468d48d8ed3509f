"""Early stopping ends a training at the evaluation that exhausts its patience, with a last checkpoint."""

import pytest
import torch
from detectron2.engine import TrainerBase, hooks

from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.engine.checks import BadInput
from pentamask.engine.early_stopping import EarlyStopping, check_early_stopping, early_ending


class Loop(TrainerBase):
    def run_step(self):
        pass


def train(values, tmp_path, patience, start=0, state=None):
    """Evaluations every second iteration give `values`; returns the number of iterations, and the hook."""
    values, evaluated = iter(values), []

    def evaluate():
        evaluated.append(next(values))
        return {"segm": {"AP": evaluated[-1]}}

    trainer = Loop()
    hook = EarlyStopping(2, PentamaskCheckpointer(torch.nn.Linear(1, 1), str(tmp_path)), "segm/AP", patience)
    if state is not None:
        hook.load_state_dict(state)
    trainer.register_hooks([hooks.EvalHook(2, evaluate), hook])
    with early_ending():
        trainer.train(start, 20)
    return trainer.iter + 1, hook, evaluated


def test_ends_when_patience_is_exhausted(tmp_path):
    iterations, _, evaluated = train([1.0, 3.0, 2.0, 3.0, 2.5, 9.0], tmp_path, patience=2)
    assert iterations == 8  # 1, 3, then two that are not better; and the evaluation of every end
    assert evaluated == [1.0, 3.0, 2.0, 3.0, 2.5]
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 7


def test_goes_on_while_it_gets_better(tmp_path):
    iterations, _, _ = train([1.0, 0.5, 2.0, 1.5, 3.0, 2.5, 4.0, 3.5, 5.0, 5.0], tmp_path, patience=2)
    assert iterations == 21  # Detectron2 counts once more at the end
    assert not (tmp_path / "model_final.pth").exists()


def test_patience_is_resumed(tmp_path):
    iterations, hook, _ = train([1.0, 1.0], tmp_path, patience=2, start=10, state={"best": 5.0, "num_worse": 1})
    assert iterations == 12 and hook.state_dict() == {"best": 5.0, "num_worse": 2}


def test_what_has_ended_is_not_resumed(tmp_path):
    state = {"best": 5.0, "num_worse": 2}
    _, _, evaluated = train([1.0], tmp_path, patience=2, start=10, state=state)
    assert evaluated == [1.0]  # that of every end
    assert train([1.0] * 9, tmp_path, patience=3, start=10, state=state)[2] == [1.0, 1.0]  # more patience: goes on


def test_checkpoints_know_the_evaluation_of_their_iteration(tmp_path):
    """Detectron2 saves before it evaluates."""
    values, model, trainer = iter([1.0, 3.0, 2.0, 2.0]), torch.nn.Linear(1, 1), Loop()
    checkpointer = PentamaskCheckpointer(model, str(tmp_path), trainer=trainer)
    evaluation = hooks.EvalHook(2, lambda: {"segm": {"AP": next(values)}})
    periodic = hooks.PeriodicCheckpointer(checkpointer, 3, max_to_keep=2)
    trainer.register_hooks([periodic, evaluation, EarlyStopping(2, checkpointer, "segm/AP", 5)])
    trainer.train(0, 7)
    states = {}
    for name in ("model_0000002", "model_0000005"):
        states[name] = torch.load(tmp_path / f"{name}.pth", weights_only=True)["trainer"]["hooks"]["EarlyStopping"]
    assert states == {"model_0000002": {"best": 1.0, "num_worse": 0}, "model_0000005": {"best": 3.0, "num_worse": 1}}
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_needs_evaluations():
    keys = ("SOLVER.EARLY_STOPPING", "TEST.EVAL_PERIOD")
    check_early_stopping(keys, "", 0, 0)
    with pytest.raises(BadInput, match="SOLVER.EARLY_STOPPING watches 'segm/AP'.*set TEST.EVAL_PERIOD"):
        check_early_stopping(keys, "segm/AP", 0, 5)
    with pytest.raises(BadInput, match="patience of 0"):
        check_early_stopping(keys, "segm/AP", 100, 0)
