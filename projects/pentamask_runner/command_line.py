"""python -m pentamask_runner model.onnx --input 'photos/*.jpg' --output drawn/ --confidence-threshold 0.5"""

import argparse
import glob
import json
import os
import sys

from PIL import Image

from .output import coco_results, draw, save_panoptic
from .runner import PROVIDERS, Runner, read_rgb


def get_parser() -> argparse.ArgumentParser:
    """The command line's."""
    parser = argparse.ArgumentParser(
        prog="run_onnx", description="Run a model that pentamask exported, without PyTorch."
    )
    parser.add_argument("model", metavar="FILE", help="the .onnx file")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="FILE", help="pictures, folders of them, or patterns")
    source.add_argument("--video-input", metavar="FILE", help="video file (needs OpenCV)")
    parser.add_argument("--output", metavar="DIR", help="folder for drawings; of a video, the new file")
    parser.add_argument("--save-json", metavar="FILE", help="write instances in COCO's format of results")
    parser.add_argument("--save-panoptic", metavar="DIR", help="write a PNG and a JSON of each picture's segments")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, help="lowest score of an instance")
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help="of onnxruntime")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0 for all cores")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the model on pictures or a video.

    Raises:
        ValueError, OSError, ImportError: say what cannot be used.
    """
    paths = find_pictures(args.input or [])
    check_outputs(args, paths)
    runner = Runner(
        args.model, provider=args.provider, threads=args.threads, confidence_threshold=args.confidence_threshold
    )
    if args.save_panoptic and not {"merge", "combine"} & runner.metadata.keys():
        raise ValueError(f"--save-panoptic: {args.model} is no panoptic model.")
    json_folder = os.path.dirname(args.save_json or "")
    drawings = args.output if args.input else os.path.dirname(args.output)
    for folder in (drawings, args.save_panoptic, json_folder):
        if folder:
            os.makedirs(folder, exist_ok=True)
    if args.video_input:
        run_on_video(runner, args.video_input, args.output)
        return
    entries: list[dict] = []
    failed = 0
    for number, path in enumerate(paths):
        try:
            entries += run_on_picture(runner, path, number, args)
        except (OSError, ValueError) as error:  # a picture may be anything
            print(f"{path}: {error}", file=sys.stderr)
            failed += 1
    if args.save_json:
        with open(args.save_json, "w") as file:
            json.dump(entries, file)
    if failed:
        raise ValueError(f"{failed} of {len(paths)} pictures failed.")


def check_outputs(args: argparse.Namespace, paths: list[str]) -> None:
    """Raise `ValueError` if something would be overwritten that may be missed, or not be written at all."""
    if args.video_input and (args.save_json or args.save_panoptic):
        raise ValueError("--save-json and --save-panoptic are for --input.")
    if args.video_input and not args.output:
        raise ValueError("--video-input needs --output, a new file.")
    folders = [folder for folder in (args.output, args.save_panoptic) if folder]
    if folders and len({_stem(path) for path in paths}) < len(paths):
        raise ValueError("--input names files of the same name, whose results would overwrite each other.")
    inputs = {os.path.realpath(path) for path in paths}
    for path in (os.path.join(folder, f"{_stem(path)}.png") for folder in folders for path in paths):
        if os.path.realpath(path) in inputs:
            raise ValueError(f"{path} is an input, and would be overwritten: choose another folder.")


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def run_on_picture(runner: Runner, path: str, number: int, args: argparse.Namespace) -> list[dict]:
    """Draw and save what is found in a file; returns the instances in COCO's format."""
    pixels = read_rgb(path)
    result = runner(pixels)
    print(f"{path}: {len(result.scores)} instances")
    stem = _stem(path)
    if args.output:
        drawn = draw(pixels, result, runner.metadata["thing_classes"], runner.metadata["stuff_classes"])
        Image.fromarray(drawn).save(os.path.join(args.output, f"{stem}.png"))
    if args.save_panoptic:
        save_panoptic(result, args.save_panoptic, stem)
    return coco_results(result, number, path, runner.metadata["thing_dataset_ids"])


def run_on_video(runner: Runner, path: str, output: str) -> None:
    """Write a video with what is found in each frame, at its size and frame rate."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("Videos need OpenCV: pip install opencv-python.") from error
    video = cv2.VideoCapture(path)
    if not video.isOpened():
        raise ValueError(f"Cannot open the video {path}.")
    size = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(output, cv2.VideoWriter.fourcc(*"mp4v"), video.get(cv2.CAP_PROP_FPS) or 25.0, size)
    if not writer.isOpened():
        raise ValueError(f"Cannot write the video {output}: give a name that ends in .mp4.")
    try:
        success, frame = video.read()
        while success:
            pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            drawn = draw(pixels, runner(pixels), runner.metadata["thing_classes"], runner.metadata["stuff_classes"])
            writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
            success, frame = video.read()
    finally:
        video.release()
        writer.release()


def find_pictures(patterns: list[str]) -> list[str]:
    """The files that paths, folders and patterns name.

    Raises:
        ValueError: one of them names no file.
    """
    endings, paths = Image.registered_extensions(), []
    for pattern in patterns:
        if os.path.isdir(pattern):
            names = sorted(name for name in os.listdir(pattern) if os.path.splitext(name)[1].lower() in endings)
            found = [os.path.join(pattern, name) for name in names]
        else:
            found = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern))
        if not found:
            raise ValueError(f"--input {pattern}: there is no such picture.")
        paths += found
    return paths


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    try:
        main(get_parser().parse_args())
    except (ValueError, OSError, ImportError) as error:
        print(f"run_onnx: error: {error}", file=sys.stderr)
        sys.exit(1)
