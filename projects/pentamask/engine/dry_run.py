"""What a training would do, how long it takes and what memory, from two iterations and some pictures."""

import itertools
import resource
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from pentamask.engine.step import StepTrainer

_NUM_PICTURES = 4


class Plan(NamedTuple):
    """What a config says of its training: iterations, how many lie between evaluations (0: only at the end) and
    between checkpoints, and the images of a batch in all processes."""

    max_iter: int
    eval_period: int
    checkpoint_period: int
    batch_size: int


def dry_run(trainer: StepTrainer, test_loaders: Mapping[str, Iterable], plan: Plan) -> str:
    """Train two iterations, run the model on some pictures of each test set, and say what a whole training takes.

    Args:
        trainer: made for the training; its model changes.
        test_loaders: by the names of the datasets.
        plan: of the training.

    Returns:
        Lines for the user.
    """
    step_seconds = _train_two_iterations(trainer)
    lines, eval_seconds = [], 0.0
    for name, loader in test_loaders.items():
        per_picture = _seconds_per_picture(trainer.model, loader)
        pictures = len(loader.dataset)  # type: ignore[attr-defined]
        eval_seconds += per_picture * pictures / comm.get_world_size()
        lines.append(f"evaluate on {name}: {pictures} pictures, {per_picture:.3g} s each")
    evaluations = -(-plan.max_iter // plan.eval_period) if plan.eval_period else 1
    evaluations = evaluations if test_loaders else 0
    training = step_seconds * plan.max_iter
    return "\n".join(
        [
            f"train {plan.max_iter} iterations of {plan.batch_size} pictures, {step_seconds:.3g} s each, with "
            f"{comm.get_world_size()} processes on {_device_name(trainer.device)}",
            *lines,
            f"evaluate {evaluations} times, save a checkpoint every {plan.checkpoint_period} iterations",
            f"time: about {_duration(training)} of training and {_duration(evaluations * eval_seconds)} of evaluation",
            f"memory: {_memory(trainer.device)}",
            "Nothing was written. Without --dry-run it starts.",
        ]
    )


def _train_two_iterations(trainer: StepTrainer) -> float:
    """Seconds of the second one; the first sets things up."""
    trainer.model.train()
    seconds = 0.0
    with EventStorage() as trainer.storage:
        for trainer.iter in range(2):
            start = _clock(trainer.device)
            trainer.run_step()
            seconds = _clock(trainer.device) - start
    return seconds


def _seconds_per_picture(model: torch.nn.Module, loader: Iterable) -> float:
    seconds, count = 0.0, 0
    device = next(model.parameters()).device
    with inference_context(model), torch.no_grad():
        for batch in itertools.islice(loader, _NUM_PICTURES):
            start = _clock(device)
            model(batch)
            seconds, count = seconds + _clock(device) - start, count + len(batch)
    return seconds / max(count, 1)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        used, total = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
        return f"{used / 2**30:.1f} GiB of the GPU's {total / 2**30:.0f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB of main memory"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
