"""Kill trainings at random moments, resume them, and compare every loss with a training that was left alone.

    python dev/kill_and_resume.py [--models NAME ...] [--kills N] [--kills-in-save M] [--seed S]

Trains the thin models of configs/shapes for some iterations with two loader workers. Every run is a fork of this
process, so that PyTorch is imported once; each model is trained once in peace, then again with `--kills` kills at
random moments and `--kills-in-save` kills while a checkpoint is half written. Ends with a table, and status 1 if a loss
differs by more than 1e-6 of its value or a resume fails.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in one order

import torch
from detectron2.engine import default_argument_parser

from pentamask.engine import Trainer
from pentamask.tools import train_net

MODELS = [f"{name}_R_50_thin" for name in ("BlendMask", "CenterMask_Lite", "YOLACT", "MaskRCNN", "PanopticSegFormer")]
ITERATIONS, PERIOD = 6, 2
OPTIONS = {
    "SEED": 1,
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.CHECKPOINT_PERIOD": PERIOD,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.STEPS": (),
    "DATALOADER.NUM_WORKERS": 2,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "DATASETS.TEST": (),
    "MODEL.DEVICE": "cpu",
}
TOLERANCE = 1e-6


class LoggedTrainer(Trainer):
    """Appends the losses of every iteration to `losses.txt` in OUTPUT_DIR."""

    def after_step(self) -> None:
        losses = {name: value for name, (value, _) in self.storage.latest().items() if "loss" in name}
        with open(Path(self.cfg.OUTPUT_DIR) / "losses.txt", "a") as file:
            file.write(json.dumps({"iteration": self.iter, **losses}) + "\n")
        super().after_step()


def train(model: str, folder: Path, half_saved: bool) -> None:
    """Train or resume in `folder`; `half_saved` stops for a second in the middle of writing a checkpoint."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    save = torch.save

    def save_slowly(data: object, file: object) -> None:
        save(data, file)
        os.truncate(file.name, os.path.getsize(file.name) // 2)
        time.sleep(1)
        file.seek(0)
        save(data, file)

    if half_saved:
        torch.save = save_slowly
    train_net.Trainer = LoggedTrainer
    options = [str(word) for item in {**OPTIONS, "OUTPUT_DIR": folder}.items() for word in item]
    train_net.main(
        default_argument_parser().parse_args(["--config-file", f"shapes/{model}.yaml", "--resume", *options])
    )


def fork(model: str, folder: Path, half_saved: bool = False) -> int:
    """Start `train` in a process, in one group with its workers, so that all can be killed together; returns its id."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    folder.mkdir(exist_ok=True)
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        train(model, folder, half_saved)
    except BaseException as error:  # a fork must not go on with its parent's work
        print(repr(error), flush=True)
        os._exit(1)
    os._exit(0)


def succeeded(process: int) -> bool:
    """Wait for a process to end; whether it did well."""
    return os.waitpid(process, 0)[1] == 0


def kill(process: int) -> bool:
    """Kill a process and its workers; whether it was still running."""
    if os.waitpid(process, os.WNOHANG)[0]:
        return False
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def read_losses(folder: Path) -> list[dict]:
    """The lines of `losses.txt`; a kill may have cut one off."""
    path = folder / "losses.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def largest_difference(folder: Path, expected: dict[int, dict]) -> float:
    """The largest relative difference of a loss from that of the same iteration in the undisturbed training."""
    pairs = [
        (losses[name], value) for losses in read_losses(folder) for name, value in expected[losses["iteration"]].items()
    ]
    return max((abs(a - b) / max(abs(b), 1e-12) for a, b in pairs), default=float("inf"))


def disturb(model: str, folder: Path, seconds: float, in_save: bool) -> bool:
    """Kill one training in `folder`, at a random moment within `seconds` or inside a save; whether there was a kill."""
    process = fork(model, folder, half_saved=in_save)
    if not in_save:
        time.sleep(random.uniform(0.05, seconds))
        return kill(process)
    while not any(folder.glob("model_*.writing")):
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 0.9))
    return kill(process)


def try_model(model: str, root: Path, kills: int, kills_in_save: int) -> tuple[int, int, int, float]:
    """Train once in peace and several times with kills.

    Returns:
        Kills at random moments, kills inside a save, failed resumes, and the largest difference of a loss.
    """
    whole = root / f"{model}_whole"
    began = time.time()
    if not succeeded(fork(model, whole)):
        sys.exit((whole / "output.txt").read_text()[-3000:])
    seconds = time.time() - began
    expected = {losses["iteration"]: losses for losses in read_losses(whole)}
    killed, failures, difference = [0, 0], 0, 0.0
    for number in range(kills + kills_in_save):
        in_save = number >= kills
        folder = root / f"{model}_{number}"
        killed[in_save] += disturb(model, folder, seconds, in_save)
        if not succeeded(fork(model, folder)) or not (folder / "model_final.pth").exists():
            print(f"{folder}: the resume failed:\n{(folder / 'output.txt').read_text()[-2000:]}", file=sys.stderr)
            failures += 1
        difference = max(difference, largest_difference(folder, expected))
    return killed[0], killed[1], failures, difference


def main() -> int:
    """Try the models and print a table; 1 if something differed or failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--kills", type=int, default=14, help="at random moments, for each model")
    parser.add_argument("--kills-in-save", type=int, default=7, help="while a checkpoint is written, for each model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    worst = False
    print("| model | kills | kills in a save | failed resumes | largest difference of a loss |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as root:
        for model in args.models:
            kills, in_save, failures, difference = try_model(model, Path(root), args.kills, args.kills_in_save)
            print(f"| {model} | {kills} | {in_save} | {failures} | {difference:.1e} |", flush=True)
            worst = worst or failures > 0 or not difference <= TOLERANCE
    return int(worst)


if __name__ == "__main__":
    sys.exit(main())
