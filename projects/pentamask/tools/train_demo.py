"""The embedded default from nothing to pictures: generate shapes, train a small model, evaluate, look.

python -m pentamask.tools.train_demo [KEY VALUE ...]
"""

import argparse
import os
import time

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser

from pentamask.engine.command_line import add_config_options, add_debug_flag, reported_errors
from pentamask.engine.load_config import available_device, find_config_file, load_config
from pentamask.engine.predictor import Predictor
from pentamask.tools import train_net
from pentamask.visualize.side_by_side import side_by_side

_CONFIG = "shapes/demo.yaml"
_NUM_IMAGES = 12


def main(options: list[str]) -> dict:
    """Train, evaluate, and write `side_by_side.png` and the report into OUTPUT_DIR.

    Args:
        options: keys and values for the config.

    Returns:
        The evaluation results.

    Raises:
        BadInput: the options cannot be used.
    """
    start = time.time()
    options = ["OUTPUT_DIR", os.path.join("output", "demo"), *options]
    args = default_argument_parser().parse_args(["--config-file", _CONFIG, *options])
    results = train_net.main(args)
    path = _write_picture(load_config(find_config_file(_CONFIG), options))
    report = os.path.join(os.path.dirname(path), "report", "index.html")
    written = " and ".join(file for file in (path, report) if os.path.isfile(file))
    print(
        f"Mask AP {results['segm']['AP']:.1f}, box AP {results['bbox']['AP']:.1f} after "
        f"{(time.time() - start) / 60:.1f} minutes. Look at {written}"
    )
    return results


def _write_picture(cfg: CfgNode) -> str:
    """Input, ground truth and prediction of the first validation images; returns the file's path."""
    cfg.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    cfg.MODEL.DEVICE = available_device(cfg.MODEL.DEVICE)
    dataset = cfg.DATASETS.TEST[0]
    picture = side_by_side(
        DatasetCatalog.get(dataset)[:_NUM_IMAGES],
        Predictor(cfg, confidence_threshold=0.5),
        MetadataCatalog.get(dataset),
        blocks=2,
    )
    path = os.path.join(cfg.OUTPUT_DIR, "side_by_side.png")
    picture.save(path)
    return path


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    parser = add_debug_flag(argparse.ArgumentParser(description="From nothing to pictures."), "train_demo")
    add_config_options(parser)
    args = parser.parse_args()
    with reported_errors("train_demo", debug=args.debug):
        main(args.opts)


if __name__ == "__main__":
    cli()
