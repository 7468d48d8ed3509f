"""Time models on a picture: latency by stage, throughput and memory, in several precisions.

python -m pentamask.tools.benchmark --config-file BlendMask/R_50_3x.yaml YOLACT/yolact_base.yaml --device cuda \
    --modes fp32 amp compiled --json figures.json

"amp" is float16 on a GPU and bfloat16 on a CPU; "compiled" is MODEL.COMPILE. Models are optimised as in evaluation.
"""

import argparse
import json
import os
import resource
import statistics
from collections.abc import Callable
from typing import Any

import torch
from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from torch import nn

from pentamask.engine.command_line import add_debug_flag, positive, reported_errors
from pentamask.engine.config_checks import check_device
from pentamask.engine.load_config import available_device
from pentamask.engine.rehearsal import make_folder
from pentamask.engine.stages import STAGES, clock, stage_times
from pentamask.optimize import compile_dense_parts
from pentamask.tools.analyze_model import add_model_arguments, build_measured

MODES = ("fp32", "amp", "compiled")
_WARM_UP = 2  # calls


def get_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description="Time models on a picture.")
    add_model_arguments(parser)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["fp32"])
    parser.add_argument("--device", default="", help="cuda or cpu; without, the config's")
    parser.add_argument("--rounds", type=positive, default=10, help="calls of which the median counts")
    parser.add_argument("--batch-size", type=positive, default=4, help="pictures at once, for the throughput")
    parser.add_argument("--json", metavar="FILE", help="also write the figures")
    return parser


def measure(call: Callable[[list[dict]], Any], model: nn.Module, inputs: list[dict], rounds: int) -> dict[str, float]:
    """Milliseconds of a call: the median under "latency", and of each stage their mean.

    Args:
        call: runs `model`.
        model: whose stages are timed.
        inputs: of each call.
        rounds: calls to measure.
    """
    device = next(model.parameters()).device
    for _ in range(_WARM_UP):
        call(inputs)
    seconds = []
    for _ in range(rounds):
        start = clock(device)
        call(inputs)
        seconds.append(clock(device) - start)
    with stage_times(model) as stages:
        for _ in range(rounds):
            call(inputs)
    by_stage = {stage: 1000 * stages[stage] / rounds for stage in STAGES if stage in stages}
    return {"latency": 1000 * statistics.median(seconds), **by_stage}


def benchmark(args: argparse.Namespace, config_file: str, mode: str) -> dict[str, float]:
    """The figures of a config in a mode, in milliseconds, pictures a second and MiB."""
    settings = {("MODEL.DEVICE", "train.device"): available_device(args.device)} if args.device else {}
    predictor, picture = build_measured(args, config_file, settings)
    model = compile_dense_parts(predictor.model) if mode == "compiled" else predictor.model
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    precision = {"cuda": torch.float16}.get(device.type, torch.bfloat16)

    @torch.inference_mode()
    def call(inputs: list[dict]) -> Any:
        with torch.autocast(device.type, precision, enabled=mode == "amp"):
            return model(inputs)

    start = clock(device)
    one = predictor.make_input(picture)
    resizing = 1000 * (clock(device) - start)
    figures = measure(call, model, [one], args.rounds)
    figures["preprocess"] = figures.get("preprocess", 0.0) + resizing
    figures["latency"] += resizing
    batch = [one] * args.batch_size
    call(batch)
    start = clock(device)
    for _ in range(args.rounds):
        call(batch)
    figures["throughput"] = args.rounds * len(batch) / (clock(device) - start)
    # On a CPU that of the process so far, in which models run one after the other.
    cuda = device.type == "cuda"
    memory = (
        torch.cuda.max_memory_allocated(device) if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return {**figures, "memory": memory / 2**20}


def main(args: argparse.Namespace) -> dict[str, dict]:
    """Print one table for all configs and modes; returns the figures by "CONFIG MODE".

    Raises:
        BadInput: a config, the weights, the device or the picture cannot be used.
    """
    setup_logger(name="pentamask")
    if args.json:
        make_folder(os.path.dirname(args.json) or ".", "The folder of --json")
    if args.device:
        check_device("--device", args.device)
    results = {}
    for config_file in args.config_file:
        for mode in args.modes:
            results[f"{config_file} {mode}"] = benchmark(args, config_file, mode)
    columns = ["latency", *STAGES, "throughput", "memory"]
    rows = [[name, *(figures.get(column) for column in columns)] for name, figures in results.items()]
    headers = ["config, mode; ms", *columns[:-2], "pictures/s", "MiB"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".1f", missingval="-"))
    if args.json:
        figures = {"torch": torch.__version__, "threads": torch.get_num_threads(), "models": results}
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=1)
    return results


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "benchmark").parse_args()
    with reported_errors("benchmark", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
