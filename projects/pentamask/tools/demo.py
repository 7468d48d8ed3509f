"""Show what a model sees in images, a video or the webcam: Detectron2's demo.py.

python -m pentamask.tools.demo --config-file FCOS/R_50_1x.yaml --input a.jpg 'dir/*.jpg' --output results \
    --opts MODEL.WEIGHTS R_50_1x.pth

Or with a LazyConfig: --config-file FCOS/R_50_1x.py ... --opts train.init_checkpoint=R_50_1x.pth
"""

import argparse
import glob
import logging
import os
import time
from collections.abc import Iterator

import cv2
import numpy as np
import tqdm
from detectron2.data import Metadata
from detectron2.utils.logger import setup_logger
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode
from PIL import Image

from pentamask.data.panoptic import find_metadata
from pentamask.data.pictures import read_picture
from pentamask.engine.checks import BadInput, check_weights
from pentamask.engine.command_line import add_debug_flag, reported_errors
from pentamask.engine.lazy import load_lazy_config
from pentamask.engine.load_config import available_device, find_config_file, load_config
from pentamask.engine.predictor import Predictor
from pentamask.visualize.predictions import draw_frame, draw_predictions, with_class_names

_ESCAPE = 27
_CODECS = (("x264", ".mkv"), ("mp4v", ".mp4"))
logger = logging.getLogger("pentamask.demo")


def get_parser() -> argparse.ArgumentParser:
    """Detectron2's flags."""
    parser = argparse.ArgumentParser(description="Show what a model sees in images, a video or the webcam.")
    parser.add_argument("--config-file", default="", metavar="FILE", help="config file or name in the model zoo")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--webcam", action="store_true", help="take frames from the webcam")
    source.add_argument("--video-input", metavar="FILE", help="video file")
    source.add_argument("--input", nargs="+", metavar="FILE", help="images, or patterns such as 'dir/*.jpg'")
    parser.add_argument("--output", metavar="FILE_OR_DIR", help="where to save; without it a window opens")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, help="lowest score of an instance to show")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="OPT",
        help="KEY VALUE ... or, for .py files, key=value ...",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the demo.

    Raises:
        BadInput: config, weights, input or output cannot be used.
    """
    setup_logger(name="fvcore")
    setup_logger()
    setup_logger(name="pentamask")
    predictor, metadata = _build_predictor(args)
    if args.input:
        run_on_images(predictor, metadata, find_images(args.input), args.output)
    elif args.webcam:
        if args.output:
            raise BadInput("--output cannot be combined with --webcam.")
        run_on_video(predictor, metadata, 0, None)
    else:
        run_on_video(predictor, metadata, args.video_input, args.output)


def _build_predictor(args: argparse.Namespace) -> tuple[Predictor, Metadata]:
    config_file = find_config_file(args.config_file)
    if config_file.endswith(".py"):
        cfg = load_lazy_config(config_file, args.opts)
        check_weights("train.init_checkpoint", cfg.train.init_checkpoint)
        cfg.train.device = available_device(cfg.train.device)
        names = cfg.dataloader.test.dataset.names
    else:
        cfg = load_config(config_file, args.opts)
        check_weights("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS)
        cfg.MODEL.DEVICE = available_device(cfg.MODEL.DEVICE)
        cfg.freeze()
        names = cfg.DATASETS.TEST or "__unused"
    metadata = with_class_names(find_metadata(names if isinstance(names, str) else names[0]))
    return Predictor(cfg, args.confidence_threshold), metadata


def find_images(patterns: list[str]) -> list[str]:
    """The files that paths and patterns name, in their order.

    Raises:
        BadInput: one of them names no file.
    """
    paths = []
    for pattern in patterns:
        pattern = os.path.expanduser(pattern)
        folder, name = os.path.split(pattern)  # a folder's own name may hold brackets
        readings = (pattern, os.path.join(glob.escape(folder), name))
        found = [pattern] if os.path.isfile(pattern) else sorted({path for p in readings for path in glob.glob(p)})
        if not found:
            raise BadInput(f"--input {pattern}: there is no such file.")
        paths += found
    return paths


def run_on_images(predictor: Predictor, metadata: Metadata, paths: list[str], output: str | None) -> None:
    """Show or save each image with its predictions.

    Args:
        predictor: the model.
        metadata: of the dataset: class names and colours.
        paths: image files.
        output: a file for one image, else a folder, which is made; None opens a window, where Esc quits.

    Raises:
        BadInput: files cannot be read (after all others are done) or written.
    """
    targets = _output_paths(paths, output)
    unreadable = []
    for path, target in zip(tqdm.tqdm(paths, disable=output is None), targets):
        try:
            image = read_picture(path, "BGR")
        except OSError as error:
            unreadable.append(str(error))
            continue
        start = time.time()
        predictions = predictor(image)
        found = f"detected {len(predictions['instances'])} instances" if "instances" in predictions else "finished"
        logger.info("%s: %s in %.2fs", path, found, time.time() - start)
        drawn = draw_predictions(image[:, :, ::-1], predictions, metadata)
        if target is None:
            if _show(drawn, 0):
                break
        else:
            _save(drawn, target)
    if unreadable:
        raise BadInput(f"These inputs are not readable images: {' '.join(unreadable)}")


def _output_paths(paths: list[str], output: str | None) -> list[str | None]:
    if output is None:
        return [None] * len(paths)
    is_folder = os.path.isdir(output) or len(paths) > 1 or not os.path.splitext(output)[1]
    if not is_folder:
        return [output]
    if os.path.isfile(output):
        raise BadInput(f"--output {output} is a file, but {len(paths)} images need a folder.")
    targets: list[str | None] = [os.path.join(output, os.path.basename(path)) for path in paths]
    if len(set(targets)) < len(targets):
        raise BadInput("--input names files of the same name in several folders, which would overwrite each other.")
    os.makedirs(output, exist_ok=True)
    return targets


def _save(drawn: np.ndarray, path: str) -> None:
    try:
        Image.fromarray(drawn).save(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"Cannot write {path}: {error}.") from error


def _show(drawn: np.ndarray, milliseconds: int) -> bool:
    """Show an RGB image for some time, 0 until a key is pressed; whether Esc was."""
    try:
        cv2.namedWindow("pentamask", cv2.WINDOW_NORMAL)
        cv2.imshow("pentamask", drawn[:, :, ::-1])
        return cv2.waitKey(milliseconds) == _ESCAPE
    except cv2.error as error:
        raise BadInput("This OpenCV cannot open windows (opencv-python-headless): give --output.") from error


def run_on_video(predictor: Predictor, metadata: Metadata, source: str | int, output: str | None) -> None:
    """Show or save a video with its predictions, at its size and frame rate.

    Args:
        predictor: the model.
        metadata: of the dataset: class names and colours.
        source: a video file, or the number of a webcam.
        output: a new file, or a folder; None opens a window, where Esc quits.

    Raises:
        BadInput: the video cannot be read or written.
    """
    video = cv2.VideoCapture(source)
    if not video.isOpened():
        raise BadInput(f"Cannot open the {'webcam' if source == 0 else f'video {source}'}.")
    size = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = _open_writer(str(source), output, video.get(cv2.CAP_PROP_FPS) or 25.0, size) if output else None
    visualizer = VideoVisualizer(metadata, ColorMode.IMAGE)
    num_frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    try:
        for frame in tqdm.tqdm(_frames(video), total=num_frames if num_frames > 0 else None):
            drawn = draw_frame(visualizer, frame[:, :, ::-1], predictor(frame))
            if writer is not None:
                writer.write(drawn[:, :, ::-1])
            elif _show(drawn, 1):
                break
    finally:
        video.release()
        if writer is not None:
            writer.release()


def _frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8, BGR."""
    while True:
        success, frame = video.read()
        if not success:
            return
        yield frame


def _open_writer(source: str, output: str, fps: float, size: tuple[int, int]) -> cv2.VideoWriter:
    """A writer with x264 in .mkv where OpenCV has it, else MPEG-4 in .mp4; a file name given decides itself."""
    stem = os.path.join(output, os.path.splitext(os.path.basename(source))[0])
    for codec, extension in _CODECS:
        path = stem + extension if os.path.isdir(output) else output
        if os.path.exists(path):
            raise BadInput(f"--output {path} exists already: remove it or choose another name.")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*codec), fps, size)
        if writer.isOpened():
            return writer
        if os.path.exists(path):
            os.remove(path)
    raise BadInput(f"OpenCV cannot write the video {path}: give a name that ends in .mkv or .mp4.")


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "demo").parse_args()
    with reported_errors("demo", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
