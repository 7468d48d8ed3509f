"""Panoptic SegFormer, one image: with the compiled operator, and with deformable attention made of `grid_sample`.

python benchmarks/panoptic_segformer.py [--config PanopticSegFormer/R_50_2x.yaml] [--size 800 1333] [--rounds 3]

The second is what runs where the published CUDA operator is missing: one `grid_sample` per level, all samples stacked,
weighted sum. Every measurement is a process of its own, the two take turns. Memory is the growth of the process's
largest resident size during the forward pass.
"""

import argparse
import multiprocessing
import resource
import time
from statistics import median
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

NAMES = ("pentamask.ops.ms_deform_attn", "grid_sample")


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
    """Put seconds of the forward pass, of its encoder, and MiB of memory into `results`."""
    from detectron2.modeling import build_model

    from pentamask import model_zoo
    from pentamask.ops import has_compiled_ops
    from pentamask.panoptic_segformer import deformable_attention

    assert has_compiled_ops(), "build the operators first: there is nothing to compare"
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    seconds: dict[str, float] = {}
    model.encoder.register_forward_pre_hook(lambda *_: seconds.update(encoder=-time.perf_counter()))
    model.encoder.register_forward_hook(lambda *_: seconds.update(encoder=seconds["encoder"] + time.perf_counter()))
    op = deformable_attention.ms_deform_attn if name == NAMES[0] else grid_sample_attention
    with torch.inference_mode(), mock.patch.object(deformable_attention, "ms_deform_attn", op):
        model([{"image": torch.zeros(3, 64, 64)}])
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        model([{"image": image}])
        total = time.perf_counter() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    results.put((total, seconds["encoder"], memory))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="PanopticSegFormer/R_50_2x.yaml")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in NAMES}
    for _ in range(args.rounds):
        for name in NAMES:
            results = context.Queue()
            process = context.Process(target=measure, args=(name, args.config, tuple(args.size), args.threads, results))
            process.start()
            measured[name].append(results.get())
            process.join()
    print(f"{args.config}, {args.size[0]} x {args.size[1]}, CPU, {args.threads} threads, medians of {args.rounds}")
    for name, rows in measured.items():
        total, encoder, memory = (median(column) for column in zip(*rows))
        print(f"{name:30s} forward {total:7.2f} s   of it encoder {encoder:7.2f} s   memory {memory:7.0f} MiB")
    pairs = list(zip(*measured.values()))
    ratios = [median(theirs[i] / ours[i] for ours, theirs in pairs) for i in range(3)]
    print("grid_sample / pentamask: forward {:.2f}, encoder {:.2f}, memory {:.2f}".format(*ratios))


if __name__ == "__main__":
    main()
