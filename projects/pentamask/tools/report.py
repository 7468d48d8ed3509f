"""A page about a model: how it trained, what it gets right and wrong, and how it sees.

python -m pentamask.tools.report --config-file FCOS/R_50_1x.yaml --output report [MODEL.WEIGHTS R_50_1x.pth ...]
python -m pentamask.tools.report --from output/demo output/other --output report
"""

import argparse
import os
import shutil

from detectron2.engine import default_argument_parser
from detectron2.utils.logger import setup_logger

from pentamask.common import import_extra
from pentamask.engine.checks import BadInput
from pentamask.engine.command_line import add_config_options, add_debug_flag, positive, reported_errors
from pentamask.engine.load_config import find_config_file, overrides_of
from pentamask.engine.rehearsal import make_folder
from pentamask.report import report_run, write_report
from pentamask.tools import train_net

_RUN = "run"  # folder in that of the report, for what an evaluation writes


def get_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description="Write a page about a model.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config-file", metavar="FILE", help="evaluate this config: a file or name in the model zoo")
    source.add_argument("--from", nargs="+", dest="folders", metavar="OUTPUT_DIR", help="trainings, evaluations")
    parser.add_argument("--output", required=True, metavar="DIR", help="for index.html and its pictures")
    parser.add_argument("--images", type=positive, default=40, metavar="N", help="of each dataset in the gallery")
    add_config_options(parser)
    return parser


def main(args: argparse.Namespace) -> str:
    """Write the report; returns the path of index.html, which is printed.

    Raises:
        BadInput: config, weights, data or a folder cannot be used.
    """
    import_extra("jinja2", "report")  # before work is lost
    setup_logger(name="pentamask")
    if args.folders and args.opts:
        raise BadInput(f"{' '.join(args.opts)}: --from takes no config options, as no model is run.")
    make_folder(args.output, "--output")
    path = write_report(args.folders, args.output, num_images=args.images) if args.folders else _evaluate(args)
    print(f"Look at {path}")
    return path


def _evaluate(args: argparse.Namespace) -> str:
    """Run the model into a folder within the report's, and report on that."""
    folder = os.path.join(args.output, _RUN)
    lazy = find_config_file(args.config_file).endswith(".py")
    place = overrides_of(args.config_file, {("OUTPUT_DIR", "train.output_dir"): folder})
    words = ["--eval-only", "--config-file", args.config_file, *args.opts, *place]
    cfg, _ = train_net.run(default_argument_parser().parse_args(words))
    weights = cfg.train.init_checkpoint if lazy else cfg.MODEL.WEIGHTS
    # Weights that lie where they were trained bring that training's curves.
    trained = os.path.join(os.path.dirname(weights), "metrics.json")
    if weights and os.path.isfile(trained):
        shutil.copyfile(trained, os.path.join(folder, "metrics.json"))
    path = report_run(cfg, folder, weights, args.output, num_images=args.images)
    assert path is not None  # there is one process
    return path


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "report").parse_args()
    with reported_errors("report", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
