"""Show what goes on inside a model for an image, as the figures of the papers do.

python -m pentamask.tools.explain --config-file BlendMask/R_50_3x.yaml --input photo.jpg --output explain/ \
    --opts MODEL.WEIGHTS R_50_3x.pth
"""

import argparse
import os

from detectron2.utils.logger import setup_logger

from pentamask.data.pictures import read_picture
from pentamask.engine.checks import BadInput
from pentamask.engine.command_line import add_config_options, add_debug_flag, positive, reported_errors, score
from pentamask.engine.load_config import find_config_file
from pentamask.engine.rehearsal import make_folder
from pentamask.tools.demo import build_predictor, find_images
from pentamask.visualize.explanation import save_explanation


def get_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description="Show what goes on inside a model.")
    parser.add_argument("--config-file", default="", metavar="FILE", help="config file or name in the model zoo")
    parser.add_argument("--input", nargs="+", required=True, metavar="FILE", help="images, folders or patterns")
    parser.add_argument("--output", required=True, metavar="DIR", help="for the pictures; a folder for each image")
    parser.add_argument("--confidence-threshold", type=score, default=0.3, help="lowest score of an instance to show")
    parser.add_argument("--instances", type=positive, default=4, metavar="N", help="how many of the best instances")
    add_config_options(parser, "--opts")
    return parser


def main(args: argparse.Namespace) -> list[str]:
    """Write the pictures, by image NAME as OUTPUT/NAME/PART.png; returns their paths.

    Raises:
        BadInput: config, weights, input or output cannot be used, or the model declares no `explain`.
    """
    setup_logger(name="pentamask")
    find_config_file(args.config_file)
    paths = find_images(args.input)
    folders = [os.path.join(args.output, os.path.splitext(os.path.basename(path))[0]) for path in paths]
    if len(set(folders)) < len(folders):
        raise BadInput("--input names files of the same name, whose pictures would overwrite each other.")
    make_folder(args.output, "--output")
    predictor, metadata = build_predictor(args)
    written = []
    for path, folder in zip(paths, folders):
        picture, parts = predictor.explain(read_picture(path, "BGR"), args.instances)
        if any(len(part.instances) == 0 for part in parts.values() if hasattr(part, "instances")):
            print(f"{path}: no instance scores {args.confidence_threshold} or more, so that none is shown.")
        written += save_explanation(picture, parts, metadata, folder)
    print("\n".join(written))
    return written


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "explain").parse_args()
    with reported_errors("explain", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
