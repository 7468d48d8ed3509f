"""Times demo.py on a video beside its model alone on the same frames, turn by turn in one process.

    python benchmarks/video.py [--configs BlendMask/RT_R_50_4x_syncbn_shtw.yaml ...] [--threads 2] [--rounds 3]

Weights are random as in models.py; the threshold leaves as many objects a frame as asked. "Model" is its forward pass
on frames that are read and resized already; "demo" reads, resizes, tracks, draws and writes them, too. Drawing is also
timed by itself, in seconds of the processor; the last column is the ratio of all threads' such seconds, which says
more than the clock on a machine that others use. Results: README.md beside this file.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from models import build

from pentamask import model_zoo, optimize_for_inference
from pentamask.data.panoptic import find_metadata
from pentamask.data.shape_scenes import draw_scene
from pentamask.engine.predictor import Predictor
from pentamask.tools import demo
from pentamask.tools.save_predictions import Saver
from pentamask.visualize.predictions import draw_frame, with_class_names
from pentamask.visualize.tracking import VideoTracker

CONFIGS = (
    "BlendMask/RT_R_50_4x_syncbn_shtw.yaml",
    "BlendMask/R_50_1x.yaml",
    "YOLACT/yolact_resnet50.yaml",
    "PanopticSegFormer/R_50_2x.yaml",
)
SIZE = (480, 640)


def write_video(path: str, frames: int) -> list[np.ndarray]:
    """Four generated scenes that move to the right; their frames (H, W, 3) uint8, BGR, as they are read again."""
    rng, (height, width) = np.random.default_rng(0), SIZE
    parts = [cv2.resize(draw_scene(rng).image, (width // 2, height // 2)) for _ in range(4)]
    scene = np.vstack([np.hstack(parts[:2]), np.hstack(parts[2:])])
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 25.0, SIZE[::-1])
    for i in range(frames):
        writer.write(np.ascontiguousarray(np.roll(scene, 4 * i, axis=1)))
    writer.release()
    with demo.open_video(path) as video:
        return list(demo.read_frames(video))


def build_predictor(config: str, frame: np.ndarray, objects: int) -> Predictor:
    """An optimised model whose threshold leaves so many objects of a frame, or all if there are fewer."""
    cfg = model_zoo.get_config(config)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.OPTIMIZE = "", "cpu", False
    predictor = Predictor(cfg)
    inputs = [predictor.make_input(frame)]
    predictor.model = optimize_for_inference(build(config, inputs, "cpu"), inputs)
    scores = predictor(frame)["instances"].scores.sort(descending=True).values
    predictor.confidence_threshold = float(scores[:objects].min()) if len(scores) else 0.0
    return predictor


def measure(config: str, args: argparse.Namespace, folder: str) -> list[float]:
    """The columns of the table."""
    clip = os.path.join(folder, "clip.mp4")
    frames = write_video(clip, args.frames)
    predictor = build_predictor(config, frames[0], args.objects)
    metadata = with_class_names(find_metadata(model_zoo.get_config(config).DATASETS.TEST[0]))
    inputs = [predictor.make_input(frame) for frame in frames]
    target, seconds = os.path.join(folder, "drawn.mp4"), []  # of the clock and the processor: model, demo
    for _ in range(args.rounds):
        with torch.inference_mode():
            model = timed(lambda: [predictor.model([each]) for each in inputs])
        with demo.open_video(clip) as video:
            whole = timed(lambda: demo.run_on_video(predictor, metadata, video, clip, target, Saver()))
        seconds.append((*model, *whole))
    track = VideoTracker()
    tracked = [track(predictor(frame)) for frame in frames]
    start = time.thread_time()
    for frame, predictions in zip(frames, tracked):
        draw_frame(frame, predictions, metadata)
    drawing = 1000 * (time.thread_time() - start) / len(frames)
    model, model_processor, whole, whole_processor = np.array(seconds).T
    return [
        statistics.mean(len(predictions["instances"]) for predictions in tracked),
        drawing,
        len(frames) / np.median(model),
        len(frames) / np.median(whole),
        np.median(model / whole),
        np.median(model_processor / whole_processor),
    ]


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock, and of the processor in all threads."""
    start = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--objects", type=int, default=24, help="in the first frame")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| config | objects | drawing ms | model frames/s | demo frames/s | demo / model | by processor time |")
    print("| --- |" + " ---: |" * 6)
    for config in args.configs:
        with tempfile.TemporaryDirectory() as folder:
            objects, drawing, *figures = measure(config, args, folder)
        print(f"| {config} | {objects:.0f} | {drawing:.1f} | {' | '.join(f'{x:.2f}' for x in figures)} |", flush=True)


if __name__ == "__main__":
    main()
