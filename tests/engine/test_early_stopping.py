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


def test_needs_evaluations():
    keys = ("SOLVER.EARLY_STOPPING", "TEST.EVAL_PERIOD")
    check_early_stopping(keys, "", 0, 0)
    with pytest.raises(BadInput, match="SOLVER.EARLY_STOPPING watches 'segm/AP'.*set TEST.EVAL_PERIOD"):
        check_early_stopping(keys, "segm/AP", 0, 5)
    with pytest.raises(BadInput, match="patience of 0"):
        check_early_stopping(keys, "segm/AP", 100, 0)
