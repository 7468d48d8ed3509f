"""Fast NMS against torchvision's batched NMS, on the same boxes and class scores, in one interleaved run.

python benchmarks/fast_nms.py [--candidates 200] [--classes 80] [--device cpu] [--rounds 15] [--threads 1]
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from torch.utils.benchmark import Timer
from torchvision.ops import batched_nms

from pentamask.yolact import fast_nms

IOU = 0.5


def make_candidates(count: int, classes: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (count, 4), relative xyxy, in clusters of ten as around objects; and scores (classes, count)."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(-(-count // 10), 2, generator=generator).repeat_interleave(10, dim=0)[:count]
    centers = centers + 0.02 * torch.randn(count, 2, generator=generator)
    sizes = 0.1 + 0.2 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat((centers - sizes / 2, centers + sizes / 2), dim=1)
    scores = (2 * torch.randn(classes, count, generator=generator)).softmax(dim=0)
    return boxes.to(device), scores.to(device)


def contestants(boxes: torch.Tensor, scores: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What is timed: both get boxes and a score for each box and class, and return the survivors of each class."""
    classes, count = scores.shape
    labels = torch.arange(classes, device=boxes.device).repeat_interleave(count)
    # What `batched_nms` needs, a box for each class, is not part of its time.
    repeated, flat = boxes.repeat(classes, 1), scores.flatten()
    return {
        "pentamask.yolact.fast_nms": lambda: fast_nms(boxes, scores, IOU, top_k=len(boxes)),
        "torchvision.ops.batched_nms": lambda: batched_nms(repeated, flat, labels, IOU),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    timed = contestants(*make_candidates(args.candidates, args.classes, args.device))
    kept = {name: len(run()[0]) if name.startswith("pentamask") else len(run()) for name, run in timed.items()}
    timers = {name: Timer("run()", globals={"run": run}, num_threads=args.threads) for name, run in timed.items()}
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(args.rounds):
        for name, timer in timers.items():
            times[name].append(timer.timeit(5).mean)
    print(f"{args.candidates} candidates x {args.classes} classes, {args.device}, {args.threads} threads")
    for name, values in times.items():
        print(f"{name:30s} {1e3 * median(values):8.2f} ms   keeps {kept[name]}")
    ours, theirs = times.values()
    print(f"torchvision / pentamask: {median(t / o for o, t in zip(ours, theirs)):.2f}")


if __name__ == "__main__":
    main()
