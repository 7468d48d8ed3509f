"""Look at datasets before training: what train_net checks, and every picture.

python -m pentamask.tools.check_data --config-file FCOS/R_50_1x.yaml [--output samples] [KEY VALUE ...]
python -m pentamask.tools.check_data --dataset shapes_train
"""

import argparse
import copy
import os

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from tabulate import tabulate

from pentamask.data.checks import DatasetError, report
from pentamask.data.mapper import add_missing_boxes
from pentamask.data.panoptic_checks import check_panoptic
from pentamask.data.picture_checks import PictureSummary, check_pictures
from pentamask.data.pictures import read_record_picture
from pentamask.engine.checks import BadInput, check_registered, checked_loading, mask_format
from pentamask.engine.command_line import add_config_options, add_debug_flag, positive, reported_errors
from pentamask.engine.load_config import dataset_names, load_any_config
from pentamask.visualize.predictions import literal_text, with_class_names

_PANEL = 320  # pixels of the longer side of a sample
_COLUMNS = 4
_SMALL, _MEDIUM = 32**2, 96**2  # COCO's limits of areas in pixels


def get_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description="Look at datasets before training.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config-file", metavar="FILE", help="config file or name in the model zoo")
    source.add_argument("--dataset", nargs="+", metavar="NAME", help="registered datasets")
    parser.add_argument("--output", metavar="DIR", help="where to write a picture of samples of each dataset")
    parser.add_argument("--samples", type=positive, default=12, help="pictures in it")
    add_config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Check all datasets, print what is in them and draw samples.

    Raises:
        BadInput: something is wrong with at least one; the message says with what.
    """
    setup_logger(name="pentamask")
    problems = []
    for name, train, masks in _datasets(args):
        try:
            check_dataset(name, train=train, masks=masks, output=args.output, samples=args.samples)
        except BadInput as error:
            problems.append(str(error))
    if problems:
        raise BadInput("\n".join(problems))
    print("Nothing is wrong with the data.")


def _datasets(args: argparse.Namespace) -> list[tuple[str, bool, str]]:
    """Names, whether they are for training, and what their masks become, see `checked_datasets`."""
    if args.dataset:
        return [(name, True, "") for name in args.dataset]
    cfg = load_any_config(args.config_file, args.opts)
    return [
        (name, split == "train", mask_format(cfg, split))
        for split in ("train", "test")
        for name in dataset_names(cfg, split)
    ]


def check_dataset(name: str, *, train: bool, masks: str, output: str | None = None, samples: int = 12) -> None:
    """Check one dataset and print what is in it.

    Args:
        name: of a registered dataset.
        train: whether it is to be learnt from.
        masks: see `checked_datasets`.
        output: folder for NAME.png with sample pictures; None draws none.
        samples: how many.

    Raises:
        BadInput: it has mistakes.
    """
    check_registered(name, "--dataset")
    with checked_loading([name], train=train, masks=masks, pictures=False):  # all are opened below
        records = DatasetCatalog.get(name)
    metadata = with_class_names(MetadataCatalog.get(name))
    summary, findings = check_pictures(records)
    print(f"{name}: {len(records)} pictures\n{_describe(summary)}\n{_count_objects(records, metadata)}")
    try:
        report(name, "its pictures", findings)
        if records and "pan_seg_file_name" in records[0]:
            report(name, metadata.get("panoptic_json"), check_panoptic(records, train=train, max_files=None))
    except DatasetError as error:
        raise BadInput(str(error)) from error
    if output is not None and records:
        os.makedirs(output, exist_ok=True)
        path = os.path.join(output, f"{name}.png")
        draw_samples(records, metadata, samples).save(path)
        print(f"Samples: {path}")


def _describe(summary: PictureSummary) -> str:
    sizes = np.array(sorted(summary.sizes.elements())).reshape(-1, 2)
    lines = [f"  modes: {', '.join(f'{mode} {count}' for mode, count in summary.modes.most_common())}"]
    if len(sizes):
        (low_w, low_h), (mid_w, mid_h), (high_w, high_h) = sizes.min(0), np.median(sizes, 0).astype(int), sizes.max(0)
        lines.append(f"  width {low_w} to {high_w}, median {mid_w}; height {low_h} to {high_h}, median {mid_h}")
    if summary.orientations:
        turned = ", ".join(f"{orientation}: {count}" for orientation, count in sorted(summary.orientations.items()))
        lines.append(f"  EXIF orientations: {turned}")
    return "\n".join(lines)


def _count_objects(records: list[dict], metadata: Metadata) -> str:
    """A table of the classes: objects, crowds, and objects by the area of their boxes as COCO divides them."""
    counts: dict[str, list[int]] = {}
    for record in records:
        for annotation in record.get("annotations", record.get("segments_info", ())):
            kind = "thing" if annotation.get("isthing", True) else "stuff"
            row = counts.setdefault(metadata.get(f"{kind}_classes")[annotation["category_id"]], [0] * 5)
            area = _area(annotation)
            row[0] += 1
            row[1] += bool(annotation.get("iscrowd", 0))
            if area is not None:
                row[2 + (area >= _SMALL) + (area >= _MEDIUM)] += 1
    header = ["class", "annotations", "crowds", "small (box < 32²)", "medium", "large (≥ 96²)"]
    rows = [[name, *row] for name, row in sorted(counts.items(), key=lambda item: -item[1][0])]
    return tabulate(rows, header) if rows else "  no annotations"


def _area(annotation: dict) -> float | None:
    """Of the box, in pixels; None without one."""
    if "bbox" not in annotation:
        return None
    mode = annotation.get("bbox_mode", BoxMode.XYWH_ABS)
    x1, y1, x2, y2 = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
    return (x2 - x1) * (y2 - y1)


@literal_text()
def draw_samples(records: list[dict], metadata: Metadata, count: int) -> Image.Image:
    """`count` pictures, taken evenly, with their annotations, in one."""
    chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).astype(int))
    columns = min(_COLUMNS, len(chosen))
    canvas = Image.new("RGB", (columns * _PANEL, -(-len(chosen) // columns) * _PANEL), "white")
    for place, i in enumerate(chosen):
        record = copy.deepcopy(records[i])
        add_missing_boxes(record)
        image = read_record_picture(record, "RGB")
        scale = max(_PANEL / max(image.shape), 1 / min(image.shape[:2]))  # long strips keep a pixel, and are cut
        visualizer = Visualizer(image, metadata, scale=scale)
        drawn = Image.fromarray(visualizer.draw_dataset_dict(record).get_image())
        canvas.paste(drawn, (place % columns * _PANEL, place // columns * _PANEL))
    return canvas


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "check_data").parse_args()
    with reported_errors("check_data", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
