"""Write a model as a file that runs without its code: ONNX, or a program of PyTorch.

python -m pentamask.tools.export_model --config-file BlendMask/R_50_3x.yaml --output model.onnx \
    --verify 'photos/*.jpg' MODEL.WEIGHTS R_50_3x.pth
"""

import argparse
import os
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.evaluation import print_csv_format
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn

from pentamask.engine.checks import BadInput
from pentamask.engine.command_line import add_config_options, add_debug_flag, positive, reported_errors
from pentamask.engine.inference import build_any_model, load_for_inference, load_runnable_config
from pentamask.engine.load_config import dataset_names, overrides_of
from pentamask.engine.rehearsal import make_folder
from pentamask.export import Exportable, export_aot, export_onnx, export_program
from pentamask.export.onnx_file import check_packages
from pentamask.export.program import check_torch
from pentamask.tools.demo import find_images

_FORMATS = {".onnx": "onnx", ".pt2": "torch_export"}


def get_parser() -> argparse.ArgumentParser:
    """Detectron2's flags, and ours."""
    parser = argparse.ArgumentParser(description="Export a model.")
    parser.add_argument("--config-file", default="", metavar="FILE", help="config file or name in the model zoo")
    parser.add_argument("--output", required=True, metavar="FILE", help="model.onnx or model.pt2")
    parser.add_argument(
        "--format",
        choices=["onnx", "torch_export", "aot_inductor"],
        help="by default what the ending of --output says",
    )
    parser.add_argument("--portable", action="store_true", help=".pt2: load without pentamask, and more slowly")
    parser.add_argument("--size", nargs=2, type=positive, metavar=("H", "W"), help="take pictures of this size only")
    parser.add_argument("--detections", choices=["dynamic", "fixed"], default="dynamic", help="how many are returned")
    parser.add_argument(
        "--batch", type=positive, metavar="N", help="take N pictures at a time, with --detections fixed"
    )
    parser.add_argument("--masks", choices=["roi", "image"], default="roi", help="image: at the size of the input")
    parser.add_argument("--opset", type=int, help="of ONNX; by default the lowest that the model can do with")
    parser.add_argument("--half", action="store_true", help="ONNX: weights and most of the computation in float16")
    parser.add_argument(
        "--verify",
        action="append",
        default=[],
        metavar="IMAGE",
        help="compare file and model in this picture, folder or pattern; may be given again",
    )
    parser.add_argument("--sample-image", metavar="IMAGE", help="as --verify, of one picture")
    parser.add_argument("--run-eval", action="store_true", help="evaluate the ONNX file on the config's test data")
    add_config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Export, and verify or evaluate if asked to.

    Raises:
        BadInput: config, weights or options cannot be used, or the file does not find what the model finds.
    """
    setup_logger(name="pentamask")
    ending = os.path.splitext(args.output)[1]
    form = args.format or _FORMATS.get(ending)
    if form is None:
        raise BadInput(f"--output {args.output}: end it in .onnx or .pt2, or give --format.")
    if form != "onnx" and (args.half or args.opset or args.batch or args.verify or args.sample_image or args.run_eval):
        raise BadInput("--half, --opset, --batch, --verify, --sample-image and --run-eval are for ONNX files.")
    check_torch()
    if form == "onnx":
        check_packages("onnx", "onnxscript", *(["onnxruntime"] if args.verify or args.run_eval else []))
    pictures = find_images([*args.verify, *([args.sample_image] if args.sample_image else [])], "--verify")
    make_folder(os.path.dirname(args.output) or ".", "The folder of --output")
    cfg, model = _load(args)
    options = {"masks": args.masks, "detections": args.detections, "size": tuple(args.size) if args.size else None}
    options["config_name"] = args.config_file
    if form == "torch_export":
        export_program(model, cfg, args.output, portable=args.portable, **options)
    elif form == "aot_inductor":
        export_aot(model, cfg, args.output, **options)
    else:
        export_onnx(model, cfg, args.output, opset=args.opset, half=args.half, batch=args.batch, **options)
    if pictures and not _verify(model, args, pictures):
        raise BadInput("The file does not find what the model finds, see the table.")
    if args.run_eval:
        _evaluate(cfg, args.output)


def _load(args: argparse.Namespace) -> tuple[CfgNode | DictConfig, nn.Module]:
    """The config, and its model with its weights, as it is built."""
    plain = {("MODEL.OPTIMIZE", "train.optimize"): False, ("MODEL.COMPILE", "train.compile"): False}
    cfg = load_runnable_config(args.config_file, [*args.opts, *overrides_of(args.config_file, plain)])
    return cfg, load_for_inference(cfg, build_any_model(cfg))


def _verify(model: nn.Module, args: argparse.Namespace, pictures: list[str]) -> bool:
    """Print how file and model agree in the pictures; whether all do."""
    from pentamask_runner.runner import Runner, read_rgb

    from pentamask.export.verify import compare, print_agreement, run_eagerly

    runner, module = Runner(args.output), Exportable(model, masks=args.masks, detections=args.detections)

    def rows() -> Iterator[tuple]:
        for path in pictures:
            image, _ = runner.preprocess(read_rgb(path))
            yield os.path.basename(path), image, compare(run_eagerly(module, image), runner.run(image))

    return print_agreement(rows())


def _evaluate(cfg: CfgNode | DictConfig, path: str) -> None:
    """Print AP and PQ of the file on the config's test data."""
    from pentamask_runner import Runner

    from pentamask.export.evaluate import evaluate_file

    folder = os.path.join(cfg.OUTPUT_DIR if isinstance(cfg, CfgNode) else cfg.train.output_dir, "inference")
    for name in dataset_names(cfg, "test"):
        print_csv_format(evaluate_file(Runner(path), name, folder))


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "export_model").parse_args()
    with reported_errors("export_model", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
