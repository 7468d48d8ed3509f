"""Times the compiled ops beside what a user would run instead, in one process, turn by turn.

    python benchmarks/ops.py [--device cuda] [--threads 2] [--only deform/enc4 blend] [--json FILE]

One row a shape and pass: the median time of pentamask's op, and how many times longer each peer takes. The error is the
largest difference from a float64 run on the same inputs, relative to its largest value; the memory is the peak of one
call beyond its inputs. Shapes, peers, goals and results: README.md beside this file.
"""

import argparse
import ctypes
import json
import os
import statistics
import time
from collections.abc import Callable

import torch
from ops_peers import PEERS
from ops_shapes import SHAPES
from torch import Tensor

from pentamask import ops
from pentamask.ops import reference

OURS = {"deform": ops.ms_deform_attn, "blend": ops.blend, "sam": ops.spatial_attention}
ORACLES = {"deform": reference.ms_deform_attn, "blend": reference.blend, "sam": reference.spatial_attention}


def make_call(function: Callable, args: tuple, grads: tuple[int, ...], backward: bool) -> Callable[[], list[Tensor]]:
    """A call without arguments that returns the result, and with `backward` the gradients of the arguments `grads`."""
    if not backward:

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return [function(*args)]

        return forward
    args = tuple(arg.detach().clone().requires_grad_() if i in grads else arg for i, arg in enumerate(args))
    inputs = [args[i] for i in grads]
    with torch.no_grad():
        shape = function(*args).shape
    grad_out = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(inputs[0])

    def forward_backward() -> list[Tensor]:
        out = function(*args)
        return [out, *torch.autograd.grad(out, inputs, grad_out)]

    return forward_backward


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleaved_medians(calls: dict[str, Callable], seconds: float, device: str) -> dict[str, float]:
    """Median milliseconds of each call; all take turns until `seconds` have passed, at least five rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, call in calls.items():
            synchronize(device)
            start = time.perf_counter()
            result = call()
            synchronize(device)
            times[name].append((time.perf_counter() - start) * 1e3)
            del result
    return {name: statistics.median(values) for name, values in times.items()}


def largest_error(results: list[Tensor], exact: list[Tensor]) -> float:
    """Largest difference relative to the largest value, over the result and all gradients."""
    pairs = zip(results, exact)
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs if b.numel() > 0)


def resident_mib(field: str) -> float:
    """VmRSS (resident now) or VmHWM (its peak since the last reset) of this process."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024


def peak_memory(call: Callable[[], list[Tensor]], device: str) -> tuple[float, float]:
    """MiB of the peak of one call beyond what was there before, and of what it returns alone."""
    outputs = sum(result.numel() * result.element_size() for result in call()) / 2**20
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20, outputs
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept for reuse would hide the call's need
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets VmHWM
    before = resident_mib("VmRSS")
    call()
    return resident_mib("VmHWM") - before, outputs


def others_share(start: tuple[float, float]) -> float:
    """Share of all processors' time that other processes took since `start` = (all busy seconds, our own)."""
    busy, own = busy_seconds()
    wall = time.perf_counter() - START
    return max(0.0, (busy - start[0]) - (own - start[1])) / (wall * (os.cpu_count() or 1))


def busy_seconds() -> tuple[float, float]:
    """Seconds that all processors were busy, and those that this process took."""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK"), time.process_time()


START = time.perf_counter()


def measure(
    name: str, device: str, dtype: torch.dtype, backward: bool, seconds: float, peers: list[str] | None
) -> dict:
    """One row: medians, errors and memory of pentamask's op and its peers on one shape."""
    family = name.split("/")[0]
    torch.compiler.reset()  # after some recompilations of a function, torch would go on without compiling it
    args, grads = SHAPES[name](device)
    exact_args = tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
    exact = make_call(ORACLES[family], exact_args, grads, backward)()
    args = tuple(a.to(dtype) if i in grads and a.is_floating_point() else a for i, a in enumerate(args))
    functions = {"pentamask": OURS[family]}
    functions |= {peer: f for peer, f in PEERS[family].items() if peers is None or peer in peers}
    calls = {peer: make_call(function, args, grads, backward) for peer, function in functions.items()}
    errors = {peer: largest_error(call(), exact) for peer, call in calls.items()}  # warms up as well
    del exact
    medians = interleaved_medians(calls, seconds, device)
    peak, outputs = peak_memory(calls["pentamask"], device)
    return {
        "shape": name,
        "pass": "fwd+bwd" if backward else "fwd",
        "ms": medians,
        "error": errors,
        "peak_mib": peak,
        "outputs_mib": outputs,
    }


def print_table(rows: list[dict]) -> None:
    """Markdown: pentamask's milliseconds, then each peer's time as a multiple of it."""
    names = list(dict.fromkeys(peer for row in rows for peer in row["ms"] if peer != "pentamask"))
    print(
        "| shape | pass | pentamask ms | "
        + " | ".join(f"{name} x" for name in names)
        + " | error | peak MiB (outputs) |"
    )
    print("| --- | --- |" + " ---: |" * (len(names) + 3))
    for row in rows:
        ours = row["ms"]["pentamask"]
        ratios = [f"{row['ms'][name] / ours:.2f}" if name in row["ms"] else "" for name in names]
        memory = f"{row['peak_mib']:.1f} ({row['outputs_mib']:.1f})"
        cells = [row["shape"], row["pass"], f"{ours:.3f}", *ratios, f"{row['error']['pentamask']:.1e}", memory]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--seconds", type=float, default=6.0, help="measuring time of a row")
    parser.add_argument("--only", nargs="*", default=[""], help="shapes whose name starts with one of these")
    parser.add_argument("--peers", nargs="*", help="only these peers")
    parser.add_argument("--json", metavar="FILE", help="write everything measured to FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    start, rows = busy_seconds(), []
    for name in SHAPES:
        if name.startswith(tuple(args.only)):
            for backward in (False, True):
                dtype = getattr(torch, args.dtype)
                rows.append(measure(name, args.device, dtype, backward, args.seconds, args.peers))
                print_table(rows[-1:])
    print()
    print_table(rows)
    load = others_share(start)
    print(f"\ntorch {torch.__version__}, {args.threads} threads, other processes' share of the processors {load:.2f}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {"torch": torch.__version__, "threads": args.threads, "others_share": load, "rows": rows},
                file,
                indent=1,
            )


if __name__ == "__main__":
    main()
