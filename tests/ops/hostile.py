"""The kernels over hostile inputs, forward and backward, for the sanitizers: dev/run_asan.py, test_cuda_emulated.py.

Loads the library that PENTAMASK_OPS_LIBRARY names, without the Python package, so that no other copy is in the process;
PENTAMASK_OPS_NAMESPACE is what it registers under. PENTAMASK_OPS_EVERY=n takes one case of n.
"""

import itertools
import os
from collections.abc import Iterator

import torch

NAMESPACE = os.environ.get("PENTAMASK_OPS_NAMESPACE", "pentamask")
OPS = getattr(torch.ops, NAMESPACE)
EVERY = int(os.environ.get("PENTAMASK_OPS_EVERY", "1"))
NUMBERS = [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 3e38, -0.0, 0.5, 1.0, -2.0, 2147483648.0]


def choices(*values: list) -> Iterator[tuple]:
    """Every combination, or one of EVERY."""
    return itertools.islice(itertools.product(*values), 0, None, EVERY)


def poison(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A third of the numbers replaced."""
    numbers = torch.tensor(NUMBERS, dtype=tensor.dtype)
    picks = numbers[torch.randint(len(NUMBERS), tensor.shape, generator=rng)]
    return torch.where(torch.rand(tensor.shape, generator=rng) < 0.3, picks, tensor)


def deform(rng: torch.Generator, dtype: torch.dtype) -> None:
    layouts = [[(5, 4), (2, 3)], [(1, 1)], [(0, 7), (3, 2)], [(1, 3), (4, 0), (2, 2), (1, 5)]]
    cases = choices(layouts, [1, 3, 4, 8, 16, 20, 33, 64], [1, 3, 5], [(1, 1), (2, 37), (0, 3), (1, 0)])
    for sizes, channels, points, (batch, queries) in cases:
        shapes = torch.tensor(sizes)
        areas = shapes.prod(1)
        starts, tokens, heads = areas.cumsum(0) - areas, int(areas.sum()), 3
        value = torch.randn(batch, tokens, heads, channels, generator=rng, dtype=dtype)
        shape = (batch, queries, heads, len(sizes), points)
        locations = poison(torch.rand(*shape, 2, generator=rng, dtype=dtype) * 3 - 1, rng)
        weights = torch.rand(shape, generator=rng, dtype=dtype)
        args = (value, shapes, starts, locations, weights)
        out = OPS.ms_deform_attn(*args)
        grads = OPS.ms_deform_attn_backward(torch.randn(out.shape, dtype=dtype), *args)
        assert all(bool(tensor.isfinite().all()) for tensor in (out, *grads)), (
            "a location that is not finite left a trace"
        )


def blend(rng: torch.Generator, dtype: torch.dtype) -> None:
    for maps, (height, width), attn_size, size, instances in choices(
        [1, 4, 5], [(1, 1), (9, 7), (1, 20), (30, 150)], [1, 7, 30], [1, 23, 56], [0, 1, 6]
    ):
        bases = torch.randn(2, maps, height, width, generator=rng, dtype=dtype)
        boxes = poison(torch.rand(instances, 4, generator=rng, dtype=dtype) * 8 * width - 2 * width, rng)
        rois = torch.cat((torch.randint(2, (instances, 1), generator=rng).to(dtype), boxes), dim=1)
        attn = torch.randn(instances, maps, attn_size, attn_size, generator=rng, dtype=dtype)
        out = OPS.blend(bases, rois, attn, 0.25, size)
        grads = OPS.blend_backward(torch.randn(out.shape, dtype=dtype), bases, rois, attn, 0.25, size)
        assert all(bool(tensor.isfinite().all()) for tensor in (out, *grads)), (
            "a coordinate that is not finite left a trace"
        )


def spatial_attention(rng: torch.Generator, dtype: torch.dtype) -> None:
    sizes = [(1, 1), (14, 14), (3, 50), (0, 4)]
    for regions, channels, (height, width), kernel in choices([0, 1, 5], [1, 2, 37], sizes, [3, 7]):
        for layout in (torch.contiguous_format, torch.channels_last):
            features = poison(torch.randn(regions, channels, height, width, generator=rng, dtype=dtype), rng)
            features = features.contiguous(memory_format=layout)
            weight = torch.randn(1, 2, kernel, kernel, generator=rng, dtype=dtype)
            out, gate, argmax = OPS._spatial_attention_forward(features, weight)
            assert argmax.numel() == 0 or (int(argmax.min()) >= 0 and int(argmax.max()) < channels)
            OPS.spatial_attention_backward(torch.randn_like(out), features, weight, gate, argmax)


def packed_layers(rng: torch.Generator, dtype: torch.dtype) -> None:
    """Not in the emulation of CUDA, which has no such kernels."""
    for rows, depth, columns in choices([0, 1, 7, 200], [0, 1, 30, 600], [1, 16, 65]):
        x, bias = (torch.randn(shape, generator=rng, dtype=dtype) for shape in ((rows, depth), (columns,)))
        weight = torch.randn(-(-columns // 16), depth, 16, generator=rng, dtype=dtype)
        out = OPS.packed_linear(x, weight, columns, bias)
        assert OPS.packed_linear(x, weight, columns, bias, out, True).isfinite().all()
    for images, channels, (height, width) in choices([0, 1, 3], [16, 48], [(1, 1), (4, 5), (13, 6), (0, 3)]):
        maps = torch.randn(images, channels, height, width, generator=rng, dtype=dtype)
        weight = torch.randn(36, 2, channels, 16, generator=rng, dtype=dtype)
        assert OPS.winograd_conv3x3(maps, weight, 32, None, True).isfinite().all()
    for regions, channels, size, ratio in choices([0, 1, 40], [1, 20], [1, 7], [0, 2]):
        maps = [torch.randn(2, channels, h, w, generator=rng, dtype=dtype) for h, w in ((9, 5), (1, 1))]
        boxes = poison(torch.rand(regions, 4, generator=rng, dtype=dtype) * 60 - 15, rng).clamp(-1e4, 1e4)
        rois = torch.cat([torch.randint(2, (regions, 1), generator=rng).to(dtype), boxes], dim=1)
        levels = torch.randint(2, (regions,), generator=rng)
        OPS.roi_align_levels(maps, rois, levels, [0.25, 0.125], size, ratio, True)
    for count, (h, w), (height, width) in choices([0, 1, 5], [(1, 1), (7, 5)], [(1, 1), (3, 20), (30, 4)]):
        masks = poison(torch.rand(count, h, w, generator=rng, dtype=dtype), rng)
        OPS.resize_masks(masks, height, width, 0.5)


def main() -> None:
    torch.ops.load_library(os.environ["PENTAMASK_OPS_LIBRARY"])
    for threads, dtype in ((1, torch.float32), (3, torch.float32), (2, torch.float64)):
        torch.set_num_threads(threads)
        rng = torch.Generator().manual_seed(threads)
        checks = [deform, blend, spatial_attention]
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::packed_linear", "CPU"):
            checks.append(packed_layers)
        for check in checks:
            check(rng, dtype)
    print(f"hostile inputs: passed with PENTAMASK_CPU_CAPABILITY={os.environ.get('PENTAMASK_CPU_CAPABILITY', '')}")


if __name__ == "__main__":
    main()
