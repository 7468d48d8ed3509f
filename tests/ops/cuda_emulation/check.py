"""Run the emulated CUDA operators over the samples: `check.py LIBRARY [OPERATOR]`, with AddressSanitizer loaded first.

What differs ends it with an error; so does a race, an access outside a tensor, a barrier that not all threads reach.
"""

import ctypes
import sys

import torch
from op_samples import (
    CASES,
    OPS,
    OUTSIDE_LEVELS,
    SMALL,
    assert_near,
    blend_args,
    cast,
    deform_args,
    outside_level,
    sam_args,
)
from op_samples import run as run_public
from torch import Tensor

TOLERANCES = {torch.float32: 5e-5, torch.float64: 1e-12, torch.float16: 4e-3, torch.bfloat16: 3e-2}
ORDERS = (0, 1, 2)  # of threads and blocks: rising, falling, at random
SUMMED_ATOMICALLY = {
    "blend": (1,),
    "spatial_attention": (),
    "ms_deform_attn": (1,),
}  # the order shows in the last digits
ODD = [
    *((name, make()) for name, make in SMALL.items()),
    ("blend", blend_args(1, 9, (3, 5), 2, 62, 6)),  # attention finer than the output
    ("blend", blend_args(2, 4, (5, 6), 0, 7, 9)),
    ("spatial_attention", sam_args(0, 8, (5, 5))),
    ("spatial_attention", tuple(t.contiguous(memory_format=torch.channels_last) for t in sam_args(3, 40, (7, 6)))),
    ("spatial_attention", sam_args(2, 5, (45, 50))),  # maps that do not fit into shared memory
    ("ms_deform_attn", deform_args([(3, 4)], 2, 0, 2, 8, 2)),
    ("ms_deform_attn", deform_args([(5, 4), (2, 3)], 1, 3, 3, 6, 2)),
    ("ms_deform_attn", deform_args([(4, 3)], 1, 2, 1, 300, 2)),  # more channels than lanes
]


def run(name: str, args: tuple) -> list[Tensor]:
    """The result and the gradients, as `op_samples.run` gives them."""
    library = torch.ops.pentamask_emulated
    if name == "spatial_attention":
        out, *saved = library._spatial_attention_forward(*args)
        args = (*args, *saved)
    else:
        out = getattr(library, name)(*args)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out, *getattr(library, f"{name}_backward")(grad_out, *args)]


def check(name: str, args: tuple, dtype: torch.dtype, emulator: ctypes.CDLL) -> None:
    """Near the float64 reference in every order of the threads, and bit-equal where nothing is added atomically."""
    inputs = cast(name, args, dtype)
    exact = run_public(OPS[name].oracle, cast(name, inputs, torch.float64), OPS[name].grads)
    results = []
    for order in ORDERS:
        emulator.emulation_order(order)
        results.append(run(name, inputs))
        assert_near(results[-1], exact, TOLERANCES[dtype])
        for i, (a, b) in enumerate(zip(results[0], results[-1], strict=True)):
            assert i in SUMMED_ATOMICALLY[name] or torch.equal(a, b), f"{name}: result {i} depends on the order"


def check_wrong_contents() -> None:
    """What a GPU does not check, as that would stall the stream: levels and channels that do not exist."""
    for level in OUTSIDE_LEVELS:
        args, expected = outside_level(*level)
        assert_near(run("ms_deform_attn", args), expected, 5e-5)
    value, sizes, starts, locations, weights = deform_args([(6, 7)], 1, 9, 2, 8, 3)
    value[:, 0] = torch.nan  # which no point reads: all lie to the right of it or outside
    out = run("ms_deform_attn", (value, sizes, starts, locations.abs() + 0.3, weights))[0]
    assert bool(out.isfinite().all()), "a corner outside was read from a token that the point does not see"
    library = torch.ops.pentamask_emulated
    features, weight = sam_args(2, 19, (5, 4))
    out, gate, argmax = library._spatial_attention_forward(features, weight)
    for channel in (-1, 19, 2**40, -(2**63)):
        argmax[1, 0, 4, 3] = channel
        grads = library.spatial_attention_backward(torch.ones_like(out), features, weight, gate, argmax)
        assert all(bool(grad.isfinite().all()) for grad in grads)


def main(library: str, *operators: str) -> None:
    """Small and odd shapes in every type, the larger samples in float32."""
    torch.ops.load_library(library)
    emulator = ctypes.CDLL(library)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what at::empty gives with NaN
    for name, args in ODD:
        for dtype in TOLERANCES if name in (operators or OPS) else ():
            check(name, args, dtype, emulator)
    for name, args in CASES:
        if name in (operators or OPS):
            check(name, args, torch.float32, emulator)
    check_wrong_contents()


if __name__ == "__main__":
    main(*sys.argv[1:])
