"""Draw training data, as annotated or after the training augmentation: Detectron2's visualize_data.py.

python -m pentamask.tools.visualize_data --config-file FCOS/R_50_1x.yaml --source dataloader --output drawn [...]
"""

import argparse
import itertools
import os
from collections.abc import Iterator

import numpy as np
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetCatalog, Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import Visualizer
from omegaconf import DictConfig
from PIL import Image

from pentamask.data.mapper import add_missing_boxes
from pentamask.data.panoptic import PanopticLabels, find_metadata
from pentamask.data.pictures import read_record_picture
from pentamask.engine.checks import BadInput, check_registered, dataset_errors
from pentamask.engine.command_line import add_config_options, add_debug_flag, positive, reported_errors
from pentamask.engine.load_config import dataset_names, load_any_config
from pentamask.engine.rehearsal import make_folder
from pentamask.engine.trainer import Trainer
from pentamask.visualize.predictions import literal_text, with_class_names

SOURCES = ("annotation", "dataloader")


def get_parser() -> argparse.ArgumentParser:
    """Detectron2's flags."""
    parser = argparse.ArgumentParser(description="Draw training data.")
    parser.add_argument("--config-file", default="", metavar="FILE", help="config file or name in the model zoo")
    parser.add_argument("--source", choices=SOURCES, default="annotation", help="as annotated, or as trained on")
    parser.add_argument("--output", required=True, metavar="DIR", help="for the pictures")
    parser.add_argument("--num", type=positive, default=12, help="how many pictures")
    add_config_options(parser)
    return parser


@literal_text()
def main(args: argparse.Namespace) -> list[str]:
    """Write the pictures; returns their paths.

    Raises:
        BadInput: config, data or output cannot be used.
    """
    setup_logger(name="pentamask")
    cfg = load_any_config(args.config_file, args.opts)
    names = dataset_names(cfg, "train")
    if not names:
        raise BadInput("The config names no training data.")
    for name in names:
        check_registered(name, "The config's training data")
    make_folder(args.output, "--output")
    metadata = with_class_names(find_metadata(names[0]))
    with dataset_errors(names):
        drawn = draw_records(names, metadata) if args.source == "annotation" else draw_samples(cfg, metadata)
        paths = []
        for i, (file_name, picture) in enumerate(itertools.islice(drawn, args.num)):
            stem = os.path.splitext(os.path.basename(file_name))[0]
            paths.append(os.path.join(args.output, f"{i:03}_{stem}.png"))
            Image.fromarray(picture).save(paths[-1])
    print("\n".join(paths))
    return paths


def draw_records(names: list[str], metadata: Metadata) -> Iterator[tuple[str, np.ndarray]]:
    """File name and drawn picture (H, W, 3) uint8, RGB, of each record of registered datasets."""
    for record in itertools.chain.from_iterable(DatasetCatalog.get(name) for name in names):
        add_missing_boxes(record)
        visualizer = Visualizer(read_record_picture(record, "RGB"), metadata)
        yield record["file_name"], visualizer.draw_dataset_dict(record).get_image()


def draw_samples(cfg: CfgNode | DictConfig, metadata: Metadata) -> Iterator[tuple[str, np.ndarray]]:
    """As `draw_records`, of what the training loader gives to the model."""
    if isinstance(cfg, CfgNode):
        loader, image_format = Trainer.build_train_loader(cfg), cfg.INPUT.FORMAT
    else:
        loader, image_format = instantiate(cfg.dataloader.train), cfg.dataloader.train.mapper.image_format
    names = class_names(metadata)
    for sample in itertools.chain.from_iterable(loader):
        picture = convert_image_to_rgb(sample["image"].permute(1, 2, 0), image_format)
        visualizer = Visualizer(np.ascontiguousarray(picture.clip(0, 255), dtype=np.uint8), metadata)
        objects = sample["instances"]
        visualizer.overlay_instances(
            labels=[names[label] for label in objects.gt_classes.tolist()],
            boxes=objects.gt_boxes if objects.has("gt_boxes") else None,
            masks=objects.gt_masks if objects.has("gt_masks") else None,
        )
        yield sample["file_name"], visualizer.get_output().get_image()


def class_names(metadata: Metadata) -> list[str]:
    """The names of `gt_classes`: of things, then of stuff, which panoptic models learn as segments, too."""
    labels = PanopticLabels.of(metadata)
    if not labels.stuff_ids:
        return list(metadata.thing_classes)
    return [
        *(metadata.thing_classes[i] for i in labels.thing_ids),
        *(metadata.stuff_classes[i] for i in labels.stuff_ids),
    ]


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "visualize_data").parse_args()
    with reported_errors("visualize_data", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
