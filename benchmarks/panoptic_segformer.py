"""Panoptic SegFormer, one image: with the compiled operator, and with deformable attention made of `grid_sample`.

python benchmarks/panoptic_segformer.py [--config PanopticSegFormer/R_50_2x.yaml] [--size 800 1333] [--rounds 3]

The second is what runs where the published CUDA operator is missing: one `grid_sample` per level, all samples stacked,
weighted sum. Every measurement is a process of its own, the two take turns. Times are seconds of the processor, which
other programs disturb less than the clock; memory is the growth of the process during the forward pass (Linux).
"""

import argparse
import multiprocessing
import resource
import time
from pathlib import Path
from statistics import median
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

NAMES = ("pentamask.ops.ms_deform_attn", "grid_sample")
STAGES = ("backbone", "encoder", "location_decoder", "thing_mask_decoder", "stuff_mask_decoder")


def grid_sample_attention(
    value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Arguments and result as `pentamask.ops.ms_deform_attn`."""
    (n, _, m, d), (q, num_levels, p) = value.shape, (locations.shape[1], *locations.shape[3:5])
    sizes = spatial_shapes.tolist()
    samples = []
    for level, (part, (h, w)) in enumerate(zip(value.split([h * w for h, w in sizes], dim=1), sizes)):
        maps = part.flatten(2).transpose(1, 2).reshape(n * m, d, h, w)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = weights.transpose(1, 2).reshape(n * m, 1, q, num_levels * p)
    out = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(dim=-1)
    return out.view(n, m * d, q).transpose(1, 2)


def measure(name: str, config: str, size: tuple[int, int], threads: int, results: multiprocessing.Queue) -> None:
    """Put the seconds of each stage, of the "forward" pass, and "MiB" of memory into `results`."""
    from detectron2.modeling import build_model

    from pentamask import model_zoo
    from pentamask.ops import has_compiled_ops
    from pentamask.panoptic_segformer import deformable_attention

    assert has_compiled_ops(), "build the operators first: there is nothing to compare"
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE = "cpu"
    # What the authors' code returns.
    cfg.MODEL.PANOPTIC_SEGFORMER.TEST.SEMANTIC_ON = False
    model = build_model(cfg).eval()
    seconds: dict[str, float] = {}
    for stage in STAGES:
        add_timer(getattr(model, stage), stage, seconds)
    add_timer(model, "forward", seconds)
    op = deformable_attention.ms_deform_attn if name == NAMES[0] else grid_sample_attention
    with torch.inference_mode(), mock.patch.object(deformable_attention, "ms_deform_attn", op):
        model([{"image": torch.zeros(3, 64, 64)}])
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        model([{"image": image}])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    results.put(seconds | {"MiB": (peak - pages * resource.getpagesize()) / 2**20})


def add_timer(module: torch.nn.Module, name: str, seconds: dict[str, float]) -> None:
    """Make the last call of `module` write its processor time to `seconds`."""
    module.register_forward_pre_hook(lambda *_: seconds.update({name: -time.process_time()}))
    module.register_forward_hook(lambda *_: seconds.update({name: seconds[name] + time.process_time()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="PanopticSegFormer/R_50_2x.yaml")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    for _ in range(args.rounds):
        for name in NAMES:
            results = context.Queue()
            process = context.Process(target=measure, args=(name, args.config, tuple(args.size), args.threads, results))
            process.start()
            measured[name].append(results.get())
            process.join()
    print(f"{args.config}, {args.size[0]} x {args.size[1]}, CPU, {args.threads} threads, medians of {args.rounds}")
    print(f"{'':20s}" + "".join(f"{name:>32s}" for name in (*NAMES, "grid_sample / pentamask")))
    for row in (*STAGES, "forward", "MiB"):
        ours, theirs = ([m[row] for m in measured[name]] for name in NAMES)
        ratio = median(t / o for o, t in zip(ours, theirs))
        print(f"{row:20s}{median(ours):32.2f}{median(theirs):32.2f}{ratio:32.2f}")


if __name__ == "__main__":
    main()
