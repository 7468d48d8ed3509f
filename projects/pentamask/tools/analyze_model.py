"""Count a model's parameters, floating-point operations and activations, in all and by stage.

python -m pentamask.tools.analyze_model --config-file BlendMask/R_50_3x.yaml YOLACT/yolact_base.yaml [--opts ...]

Operations are counted by Detectron2's FlopCountAnalysis, where a multiplication with its addition is one; with those of
pentamask's operators. Those of masks depend on what is found in the picture: give --weights and --input.
"""

import argparse
import warnings
from collections import Counter
from typing import Any

import numpy as np
import torch
from detectron2.utils.analysis import FlopCountAnalysis
from detectron2.utils.logger import setup_logger
from fvcore.nn import ActivationCountAnalysis
from tabulate import tabulate
from torch import nn

from pentamask.data.pictures import read_picture
from pentamask.data.shape_scenes import draw_scene
from pentamask.engine.command_line import add_config_options, add_debug_flag, reported_errors
from pentamask.engine.load_config import overrides_of
from pentamask.engine.predictor import Predictor
from pentamask.engine.stages import STAGES, find_stages
from pentamask.tools.demo import load_predictor

_SCENE_SIZE = (480, 640)  # of the picture without --input


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of a tool that measures the models of several configs on a picture."""
    parser.add_argument(
        "--config-file", nargs="+", required=True, metavar="FILE", help="config files or names in the model zoo"
    )
    parser.add_argument("--weights", default="", metavar="FILE", help="checkpoint; random weights without")
    parser.add_argument("--input", metavar="FILE", help="picture; a generated one without")
    add_config_options(parser, "--opts")


def build_measured(
    args: argparse.Namespace, config_file: str, settings: dict[tuple[str, str], Any]
) -> tuple[Predictor, np.ndarray]:
    """The model of a config and the picture (H, W, 3) uint8, BGR that `add_model_arguments` describe.

    Args:
        args: what was parsed.
        config_file: one of the configs.
        settings: see `overrides_of`; they have the last word.
    """
    weights = overrides_of(config_file, {("MODEL.WEIGHTS", "train.init_checkpoint"): args.weights})
    words = [*weights, *args.opts, *overrides_of(config_file, settings)]
    torch.manual_seed(0)  # so that random weights find the same each time
    predictor, _ = load_predictor(config_file, words)
    return predictor, read_picture(args.input, "BGR") if args.input else generated_picture()


def generated_picture() -> np.ndarray:
    """A scene of shapes, (H, W, 3) uint8, BGR."""
    scene = torch.from_numpy(draw_scene(np.random.default_rng(0)).image.copy()).permute(2, 0, 1)[None].float()
    return nn.functional.interpolate(scene, _SCENE_SIZE, mode="nearest")[0].permute(1, 2, 0).byte().numpy()


def analyze(model: nn.Module, inputs: list[dict]) -> dict[str, dict[str, float]]:
    """Numbers of parameters, operations and activations ("parameters", "flops", "activations"), by stage and in "all".

    Args:
        model: in evaluation mode, not optimised.
        inputs: of one call.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of what it fixes
        flops = FlopCountAnalysis(model, inputs)
        activations = _DetectionActivations(model, inputs)
        for analysis in (flops, activations):
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counts = {
            "parameters": Counter({name: sum(p.numel() for p in m.parameters()) for name, m in model.named_modules()}),
            "flops": _without_wrapper(flops.by_module()),
            "activations": _without_wrapper(activations.by_module()),
        }
    return {kind: _by_stage(find_stages(model), count) for kind, count in counts.items()}


class _DetectionActivations(ActivationCountAnalysis):
    """As Detectron2's FlopCountAnalysis, for activations."""

    def __init__(self, model: nn.Module, inputs: list[dict]) -> None:
        flops = FlopCountAnalysis(model, inputs)
        super().__init__(flops._model, flops._inputs)


def _without_wrapper(counts: Counter) -> dict[str, float]:
    """By the names of the model's modules, in place of those of what Detectron2 wraps around it."""
    return {name.removeprefix("model").removeprefix("."): count for name, count in counts.items() if name}


def _by_stage(stages: dict[str, str], counts: Any) -> dict[str, float]:
    """Each stage without those within it; what belongs to none is postprocessing."""
    own = {name: counts[name] for name in ("", *stages)}
    for name in stages:
        outer = max((other for other in own if other != name and _holds(other, name)), key=len)
        own[outer] -= counts[name]
    result: dict[str, float] = dict.fromkeys(STAGES, 0)
    for name, count in own.items():
        result[stages.get(name, "postprocess")] += count
    return {"all": counts[""], **{stage: count for stage, count in result.items() if count}}


def _holds(outer: str, name: str) -> bool:
    return outer == "" or name.startswith(f"{outer}.")


def get_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description="Count a model's parameters, operations and activations.")
    add_model_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> dict[str, dict]:
    """Print one table for all configs; returns for each what `analyze` does.

    Raises:
        BadInput: a config, the weights or the picture cannot be used.
    """
    setup_logger(name="pentamask")
    results = {}
    for config_file in args.config_file:
        predictor, picture = build_measured(args, config_file, {("MODEL.OPTIMIZE", "train.optimize"): False})
        results[config_file] = analyze(predictor.model, [predictor.make_input(picture)])
    rows = [
        [
            config_file if stage == "all" else f"- {stage}",
            *(counts[kind].get(stage, 0) / unit for kind, unit in (("parameters", 1e6), ("flops", 1e9))),
            counts["activations"].get(stage, 0) / 1e6,
        ]
        for config_file, counts in results.items()
        for stage in ("all", *STAGES)
        if any(stage in count for count in counts.values())
    ]
    headers = ("config, stage", "parameters (M)", "operations (G)", "activations (M)")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".3f"))
    return results


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "analyze_model").parse_args()
    with reported_errors("analyze_model", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
