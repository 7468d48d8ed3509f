"""Show what a model sees in images, a video or the webcam: Detectron2's demo.py.

python -m pentamask.tools.demo --config-file FCOS/R_50_1x.yaml --input a.jpg 'dir/*.jpg' --output results \
    --opts MODEL.WEIGHTS R_50_1x.pth

Or with a LazyConfig: --config-file FCOS/R_50_1x.py ... --opts train.init_checkpoint=R_50_1x.pth
"""

import argparse
import contextlib
import glob
import itertools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import tqdm
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils.logger import setup_logger
from PIL import Image

from pentamask.data.panoptic import find_metadata
from pentamask.data.pictures import read_picture
from pentamask.engine.checks import BadInput, check_registered, dataset_errors
from pentamask.engine.command_line import (
    add_config_options,
    add_debug_flag,
    describe_error,
    positive,
    reported_errors,
    score,
)
from pentamask.engine.inference import load_runnable_config
from pentamask.engine.load_config import dataset_names, find_config_file
from pentamask.engine.predictor import Predictor
from pentamask.engine.rehearsal import make_folder
from pentamask.tools.pipeline import ahead, behind
from pentamask.tools.save_predictions import Saver
from pentamask.visualize.predictions import draw_frame, draw_predictions, with_class_names
from pentamask.visualize.side_by_side import side_by_side
from pentamask.visualize.tracking import VideoTracker

_ESCAPE = 27
_NUM_RECORDS = 24  # of a dataset that --ground-truth shows
_VIDEO_ENDINGS = (".mp4", ".mkv", ".avi", ".mov")
logger = logging.getLogger("pentamask.demo")


def get_parser() -> argparse.ArgumentParser:
    """Detectron2's flags."""
    parser = argparse.ArgumentParser(description="Show what a model sees in images, a video or the webcam.")
    parser.add_argument("--config-file", default="", metavar="FILE", help="config file or name in the model zoo")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--webcam", action="store_true", help="take frames from the webcam")
    source.add_argument("--video-input", metavar="FILE", help="video file")
    source.add_argument(
        "--input", nargs="+", metavar="FILE", help="images, folders of them, or patterns as 'dir/*.jpg'"
    )
    source.add_argument("--ground-truth", metavar="DATASET", help="images of a registered dataset, beside their truth")
    parser.add_argument("--output", metavar="FILE_OR_DIR", help="where to save; without it a window opens")
    parser.add_argument("--confidence-threshold", type=score, default=0.5, help="lowest score of an instance to show")
    parser.add_argument("--tile", type=positive, metavar="SIZE", help="look at large pictures in tiles of this side")
    parser.add_argument("--overlap", type=float, metavar="F", help="of the tiles, as a share of SIZE; 0.25 without")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="frames of a video at once")
    parser.add_argument("--save-json", metavar="FILE", help="also write what is found, in COCO's format of results")
    parser.add_argument("--save-masks", metavar="DIR", help="also write a PNG of each instance, or of all segments")
    add_config_options(parser, "--opts")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the demo.

    Raises:
        BadInput: config, weights, input or output cannot be used.
    """
    setup_logger(name="fvcore")
    setup_logger()
    setup_logger(name="pentamask")
    # What cannot be read or written is said before the model is loaded.
    find_config_file(args.config_file)
    if args.input:
        paths = find_images(args.input)
        targets = output_paths(paths, args.output)
        saver = Saver(args.save_json, args.save_masks)
        predictor, metadata = build_predictor(args)
        run_on_images(predictor, metadata, paths, targets, saver)
        return
    if args.save_masks:
        raise BadInput("--save-masks is for --input.")
    if args.ground_truth:
        if args.save_json:
            raise BadInput("--save-json is for --input and videos.")
        check_registered(args.ground_truth, "--ground-truth")
        if not args.output:
            raise BadInput("--ground-truth needs --output, the file of the picture that it makes.")
        predictor, _ = build_predictor(args)
        _draw_ground_truth(predictor, args.ground_truth, args.output)
        return
    if args.webcam and args.output:
        raise BadInput("--output cannot be combined with --webcam.")
    if args.batch_size > 1 and args.tile:
        raise BadInput(f"--batch-size {args.batch_size}: with --tile give 1.")
    name = args.video_input or "webcam"
    with open_video(0 if args.webcam else args.video_input) as video:
        target = video_path(name, args.output)
        saver = Saver(args.save_json)
        predictor, metadata = build_predictor(args)
        run_on_video(predictor, metadata, video, name, target, saver, batch_size=args.batch_size)


def _draw_ground_truth(predictor: Predictor, dataset: str, output: str) -> None:
    """Input, ground truth and prediction of a dataset's first images in one picture."""
    with dataset_errors([dataset]):
        records = DatasetCatalog.get(dataset)[:_NUM_RECORDS]
    make_folder(os.path.dirname(output) or ".", "The folder of --output")
    picture = side_by_side(records, predictor, with_class_names(MetadataCatalog.get(dataset)))
    _save(np.asarray(picture), output)


def build_predictor(args: argparse.Namespace) -> tuple[Predictor, Metadata]:
    """The model that a tool's --config-file, --opts and --confidence-threshold name, and its dataset's metadata."""
    tiles = {name: value for name in ("tile", "overlap") if (value := getattr(args, name, None)) is not None}
    if tiles.keys() == {"overlap"}:
        raise BadInput("--overlap is that of tiles: give --tile as well.")
    return load_predictor(args.config_file, args.opts, args.confidence_threshold, **tiles)


def load_predictor(
    config_file: str, overrides: list[str], confidence_threshold: float = 0.0, **options: Any
) -> tuple[Predictor, Metadata]:
    """The model of a config file or a name in the model zoo, with `Predictor`'s options, and its dataset's metadata."""
    cfg = load_runnable_config(config_file, overrides)
    names = dataset_names(cfg, "test") or ["__unused"]
    metadata = with_class_names(find_metadata(names[0]))
    return Predictor(cfg, confidence_threshold, **options), metadata


def find_images(patterns: list[str], flag: str = "--input") -> list[str]:
    """The files that paths, folders and patterns name, in their order; of folders those that Pillow's names end like.

    Args:
        patterns: what to look for.
        flag: that they were given with, for messages.

    Raises:
        BadInput: one of them names no file.
    """
    paths = []
    for pattern in patterns:
        pattern = os.path.expanduser(pattern)
        folder, name = os.path.split(pattern)  # a folder's own name may hold brackets
        if os.path.isdir(pattern):
            endings = Image.registered_extensions()
            names = [name for name in sorted(os.listdir(pattern)) if os.path.splitext(name)[1].lower() in endings]
            found = [os.path.join(pattern, name) for name in names]
        elif os.path.isfile(pattern):
            found = [pattern]
        else:
            readings = (pattern, os.path.join(glob.escape(folder), name))
            found = sorted({path for p in readings for path in glob.glob(p)})
        if not found:
            what = "this folder has no images" if os.path.isdir(pattern) else "there is no such file"
            raise BadInput(f"{flag} {pattern}: {what}.")
        paths += found
    return paths


def run_on_images(
    predictor: Predictor, metadata: Metadata, paths: list[str], targets: list[str | None], saver: Saver
) -> None:
    """Show or save each image with its predictions.

    Args:
        predictor: the model.
        metadata: of the dataset: class names and colours.
        paths: image files.
        targets: where to save each; None opens a window, where Esc quits.
        saver: of other forms of what is found.

    Raises:
        BadInput: some images failed, after all others are done; each is logged with its reason.
    """
    failed = []
    for path, target in zip(tqdm.tqdm(paths, disable=None in targets), targets):
        try:
            drawn = _predict(predictor, metadata, path, saver)
            if target is not None:
                _save(drawn, target)
        except Exception as error:  # a picture may be anything
            logger.error("%s: %s", path, describe_error(error))
            failed.append(path)
            continue
        if target is None and _show(drawn, 0):
            break
    saver.finish()
    if failed:
        raise BadInput(f"{len(failed)} of {len(paths)} images failed: {' '.join(failed)}")


def _predict(predictor: Predictor, metadata: Metadata, path: str, saver: Saver) -> np.ndarray:
    """The image with its predictions (H, W, 3) uint8, RGB."""
    image = read_picture(path, "BGR")
    start = time.time()
    predictions = predictor(image)
    found = f"detected {len(predictions['instances'])} instances" if "instances" in predictions else "finished"
    logger.info("%s: %s in %.2fs", path, found, time.time() - start)
    saver.add(path, predictions, metadata)
    return draw_predictions(image[:, :, ::-1], predictions, metadata)


def output_paths(paths: list[str], output: str | None) -> list[str | None]:
    """Where the picture of each input goes; folders are made.

    Args:
        paths: of the inputs.
        output: a file for one image, else a folder; None for windows.

    Raises:
        BadInput: a file of the input, or of another input, would be overwritten, or a folder cannot be made.
    """
    if output is None:
        return [None] * len(paths)
    is_folder = os.path.isdir(output) or len(paths) > 1 or not os.path.splitext(output)[1]
    if not is_folder and os.path.splitext(output)[1].lower() not in Image.registered_extensions():
        raise BadInput(f"Cannot write {output}: choose an ending such as .png or .jpg.")
    if is_folder and os.path.isfile(output):
        raise BadInput(f"--output {output} is a file, but {len(paths)} images need a folder.")
    targets = [os.path.join(output, os.path.basename(path)) for path in paths] if is_folder else [output]
    if len(set(targets)) < len(targets):
        raise BadInput("--input names files of the same name in several folders, which would overwrite each other.")
    inputs = {os.path.realpath(path) for path in paths}
    own = [target for target in targets if os.path.realpath(target) in inputs]
    if own:
        raise BadInput(f"--output {output} would overwrite the input {own[0]}: choose another folder or name.")
    make_folder(output if is_folder else os.path.dirname(output) or ".", "--output")
    return list(targets)


def video_path(source: str, output: str | None) -> str | None:
    """Where the video with predictions goes; its folder is made.

    Args:
        source: the video, or "webcam".
        output: a file, or a folder for one named as the source; None for a window.

    Raises:
        BadInput: the file exists, OpenCV does not write such, or the folder cannot be made.
    """
    if output is None:
        return None
    if os.path.isdir(output) or not os.path.splitext(output)[1]:
        output = os.path.join(output, os.path.splitext(os.path.basename(source))[0] + ".mp4")
    if os.path.splitext(output)[1].lower() not in _VIDEO_ENDINGS:
        raise BadInput(f"Cannot write the video {output}: give a name that ends in one of {' '.join(_VIDEO_ENDINGS)}.")
    if os.path.exists(output):
        raise BadInput(f"--output {output} exists already: remove it or choose another name.")
    make_folder(os.path.dirname(output) or ".", "--output")
    return output


def _save(drawn: np.ndarray, path: str) -> None:
    """Write an RGB picture, as PNG where Pillow does not know the ending."""
    known = os.path.splitext(path)[1].lower() in Image.registered_extensions()
    try:
        Image.fromarray(drawn).save(path, format=None if known else "PNG")
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"Cannot write {path}: {error}.") from error


def _show(drawn: np.ndarray, milliseconds: int) -> bool:
    """Show an RGB image for some time, 0 until a key is pressed; whether Esc was."""
    try:
        cv2.namedWindow("pentamask", cv2.WINDOW_NORMAL)
        cv2.imshow("pentamask", drawn[:, :, ::-1])
        return cv2.waitKey(milliseconds) == _ESCAPE
    except cv2.error as error:
        raise BadInput("This OpenCV cannot open windows (opencv-python-headless): give --output.") from error


@contextmanager
def open_video(source: str | int) -> Iterator[cv2.VideoCapture]:
    """The frames of a video file, or of the webcam of a number, closed at the end.

    Raises:
        BadInput: it cannot be opened.
    """
    video = cv2.VideoCapture(source)
    try:
        if not video.isOpened():
            raise BadInput(f"Cannot open the {'webcam' if source == 0 else f'video {source}'}.")
        yield video
    finally:
        video.release()


def run_on_video(
    predictor: Predictor,
    metadata: Metadata,
    video: cv2.VideoCapture,
    name: str,
    target: str | None,
    saver: Saver,
    *,
    batch_size: int = 1,
) -> None:
    """Show or save a video with its predictions, at its size and frame rate.

    A thread reads frames and another one draws them, while this one runs the model. Objects keep number and colour.

    Args:
        predictor: the model.
        metadata: of the dataset: class names and colours.
        video: open.
        name: of its file.
        target: a new file, of MPEG-4; None opens a window, where Esc quits.
        saver: of other forms of what is found, by the frames' numbers.
        batch_size: frames that the model sees at once.

    Raises:
        BadInput: the video cannot be written.
    """
    size = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    writer = cv2.VideoWriter(target, cv2.VideoWriter.fourcc(*"mp4v"), rate, size) if target else None
    if writer is not None and not writer.isOpened():
        raise BadInput(f"OpenCV cannot write the video {target}.")
    num_frames, track = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), VideoTracker()

    def finish(seen: tuple[np.ndarray, dict]) -> np.ndarray:
        frame, predictions = seen
        tracked = track(predictions)
        saver.add(name, tracked, metadata)
        drawn = draw_frame(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), tracked, metadata)
        if writer is not None:
            writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        return drawn

    try:
        seen = _predict_frames(predictor, ahead(read_frames(video)), batch_size)
        with contextlib.closing(behind(finish, seen)) as finished:
            for drawn in tqdm.tqdm(finished, total=num_frames if num_frames > 0 else None):
                if writer is None and _show(drawn, 1):
                    break
        saver.finish()
    finally:
        if writer is not None:
            writer.release()


def _predict_frames(
    predictor: Predictor, frames: Iterator[np.ndarray], batch_size: int
) -> Iterator[tuple[np.ndarray, dict]]:
    """Each frame with its predictions."""
    while batch := list(itertools.islice(frames, batch_size)):
        yield from zip(batch, predictor.predict_batch(batch) if len(batch) > 1 else [predictor(batch[0])])


def read_frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8, BGR."""
    while True:
        success, frame = video.read()
        if not success:
            return
        yield frame


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "demo").parse_args()
    with reported_errors("demo", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
