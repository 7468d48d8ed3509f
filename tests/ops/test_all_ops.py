"""What holds for each of the three ops: values, gradients, types, layouts, errors, compilation."""

import time

import pytest
import torch
from op_samples import CASES, DEVICES, OPS, SMALL, assert_near, blend_args, cast, deform_args, needs_cuda, run, sam_args
from torch import Tensor

from pentamask.ops import has_compiled_ops

pytestmark = pytest.mark.skipif(not has_compiled_ops(), reason="the compiled ops are not built")
names = pytest.mark.parametrize("name", OPS)
devices = pytest.mark.parametrize("device", DEVICES)


@devices
@pytest.mark.parametrize("case", range(len(CASES)))
def test_equals_float64_reference(case: int, device: str) -> None:
    name, args = CASES[case]
    op = OPS[name]
    exact = run(op.oracle, cast(name, args, torch.float64), op.grads)
    assert_near(run(op.function, cast(name, args, torch.float32, device), op.grads), exact, 5e-5)
    assert_near(run(op.function, cast(name, args, torch.float64, device), op.grads), exact, 1e-12)


@devices
@names
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_types_round_once(name: str, dtype: torch.dtype, device: str) -> None:
    op, args = OPS[name], cast(name, SMALL[name](), dtype)
    exact = run(op.oracle, cast(name, args, torch.float64), op.grads)
    actual = run(op.function, cast(name, args, dtype, device), op.grads)
    assert actual[0].dtype == dtype
    assert_near(actual, exact, 2 * torch.finfo(dtype).eps)


@names
def test_gradcheck(name: str) -> None:
    op, args = OPS[name], cast(name, SMALL[name](), torch.float64)
    args = tuple(arg.requires_grad_() if i in op.grads else arg for i, arg in enumerate(args))
    if name == "spatial_attention":  # away from ties, where the maximum has no derivative
        args = (torch.randn(2, 5, 4, 3, dtype=torch.float64).requires_grad_(), args[1])
    assert torch.autograd.gradcheck(op.function, args)


@devices
@names
def test_non_contiguous_inputs(name: str, device: str) -> None:
    op, args = OPS[name], cast(name, SMALL[name](), torch.float32, device)
    strided = tuple(torch.stack((arg, arg), dim=-1)[..., 0] if isinstance(arg, Tensor) else arg for arg in args)
    before = [arg.clone() for arg in strided if isinstance(arg, Tensor)]
    inputs = [strided[i].requires_grad_() for i in op.grads]
    out = op.function(*strided)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    grads = torch.autograd.grad(out, inputs, torch.stack((grad_out, grad_out), dim=-1)[..., 0])
    for actual, expected in zip([out, *grads], run(op.function, args, op.grads), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0 if device == "cpu" else 1e-5)
    for a, b in zip(before, (arg for arg in strided if isinstance(arg, Tensor))):
        assert torch.equal(a, b), "an input was written to"


@devices
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("blend", blend_args(2, 4, (5, 6), 0, 7, 9)),
        ("spatial_attention", sam_args(0, 8, (5, 5))),
        ("ms_deform_attn", deform_args([(3, 4)], 2, 0, 2, 8, 2)),
        ("ms_deform_attn", deform_args([(3, 4)], 0, 5, 2, 8, 2)),
    ],
)
def test_empty_inputs_give_empty_results_and_zero_gradients(name: str, args: tuple, device: str) -> None:
    op = OPS[name]
    out, *grads = run(op.function, cast(name, args, torch.float32, device), op.grads)
    assert out.shape == op.oracle(*args).shape
    assert all(bool((grad == 0).all()) for grad in grads)


@names
def test_only_the_asked_gradients(name: str) -> None:
    op, args = OPS[name], SMALL[name]()
    everything = dict(zip(op.grads, run(op.function, args, op.grads)[1:]))
    for i in op.grads:
        torch.testing.assert_close(run(op.function, args, (i,))[1], everything[i], rtol=0, atol=0)


@names
def test_the_same_for_any_number_of_threads(name: str) -> None:
    cases = [args for case, args in CASES if case == name]
    threads = torch.get_num_threads()
    try:
        for args in cases:
            results = []
            for count in (1, 2, 2, 5):
                torch.set_num_threads(count)
                results.append(run(OPS[name].function, args, OPS[name].grads))
            for other in results[1:]:
                assert all(torch.equal(a, b) for a, b in zip(results[0], other))
    finally:
        torch.set_num_threads(threads)


def test_more_than_one_worker_runs() -> None:
    args, threads = sam_args(256, 256, (14, 14)), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        own, whole = time.thread_time(), time.process_time()
        for _ in range(20):
            OPS["spatial_attention"].function(*args)
        own, whole = time.thread_time() - own, time.process_time() - whole
    finally:
        torch.set_num_threads(threads)
    assert whole > 1.3 * own, "the kernels ran on one thread: was the extension compiled without -fopenmp?"


@names
def test_autocast_keeps_coordinates(name: str) -> None:
    op, args = OPS[name], SMALL[name]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = op.function(*args)
    assert out.dtype == torch.bfloat16
    lowered = list(args)
    lowered[0] = args[0].bfloat16()
    if name != "ms_deform_attn":
        lowered[op.features[1]] = args[op.features[1]].bfloat16()
    assert torch.equal(out, op.function(*lowered))


@names
def test_opcheck(name: str) -> None:
    op, args = OPS[name], SMALL[name]()
    overload = getattr(torch.ops.pentamask, name).default
    for dtype in (torch.float32, torch.bfloat16):
        for grad in (False, True):
            inputs = [
                arg.clone().requires_grad_(grad and i in op.grads) if isinstance(arg, Tensor) else arg
                for i, arg in enumerate(cast(name, args, dtype))
            ]
            torch.library.opcheck(overload, tuple(inputs))
    out = op.function(*args)
    if name == "spatial_attention":
        out, gate, argmax = torch.ops.pentamask._spatial_attention_forward(*args)
        for dtype in (torch.float32, torch.bfloat16):
            torch.library.opcheck(torch.ops.pentamask._spatial_attention_forward.default, cast(name, args, dtype))
        args = (*args, gate, argmax)
    backward = getattr(torch.ops.pentamask, f"{name}_backward").default
    utilities = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(backward, (torch.randn_like(out), *args), test_utils=utilities)


@names
def test_compile_and_export(name: str) -> None:
    op, args = OPS[name], SMALL[name]()
    expected = run(op.function, args, op.grads)
    for dynamic, backend in ((False, "inductor"), (True, "aot_eager")):
        compiled = torch.compile(op.function, fullgraph=True, dynamic=dynamic, backend=backend)
        assert_near(run(compiled, args, op.grads), [x.double() for x in expected], 1e-6)

    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return op.function(*tensors, *(arg for arg in args if not isinstance(arg, Tensor)))

    tensors = tuple(arg for arg in args if isinstance(arg, Tensor))
    exported = torch.export.export(Module(), tensors)
    assert any("pentamask" in str(node.target) for node in exported.graph.nodes)
    assert torch.equal(exported.module()(*tensors), expected[0])


@names
def test_vmap_is_refused(name: str) -> None:
    args = SMALL[name]()
    stacked = [torch.stack((arg, arg)) if isinstance(arg, Tensor) else arg for arg in args]
    in_dims = tuple(0 if isinstance(arg, Tensor) else None for arg in args)
    with pytest.raises(NotImplementedError, match="does not support torch.vmap"):
        torch.vmap(OPS[name].function, in_dims=in_dims)(*stacked)


@names
def test_double_backward_is_refused(name: str) -> None:
    op = OPS[name]
    args = tuple(arg.requires_grad_() if i in op.grads else arg for i, arg in enumerate(SMALL[name]()))
    (grad,) = torch.autograd.grad(op.function(*args).square().sum(), args[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("name", "index", "change", "error"),
    [
        ("blend", 0, lambda t: t[0], "`bases`"),
        ("blend", 1, lambda t: t[:, :4], "`rois`"),
        ("blend", 1, lambda t: t.half(), "`rois`"),
        ("blend", 1, lambda t: t + 2, "image indices"),
        ("blend", 2, lambda t: t[:, :, :3], "`attn`"),
        ("blend", 2, lambda t: t.double(), "`attn`"),
        ("blend", 4, lambda size: 0, "`output_size`"),
        ("spatial_attention", 0, lambda t: t.int(), "`input`"),
        ("spatial_attention", 0, lambda t: t[0], "`input`"),
        ("spatial_attention", 1, lambda t: t[:, :1], "`weight`"),
        ("spatial_attention", 1, lambda t: t.half(), "`weight`"),
        ("ms_deform_attn", 0, lambda t: t.flatten(2), "`value`"),
        ("ms_deform_attn", 0, lambda t: t[:, :-1], "`spatial_shapes`"),
        ("ms_deform_attn", 1, lambda t: t.int(), "`spatial_shapes`"),
        ("ms_deform_attn", 2, lambda t: t[:1], "`level_start_index`"),
        ("ms_deform_attn", 2, lambda t: t - 1, "`spatial_shapes`"),
        ("ms_deform_attn", 3, lambda t: t[..., :1], "`sampling_locations`"),
        ("ms_deform_attn", 3, lambda t: t.double(), "`sampling_locations`"),
        ("ms_deform_attn", 4, lambda t: t[:, :2], "`attention_weights`"),
    ],
)
def test_wrong_arguments_are_named(name: str, index: int, change, error: str) -> None:
    args = list(SMALL[name]())
    args[index] = change(args[index])
    with pytest.raises((ValueError, TypeError), match=error):
        OPS[name].function(*args)


@needs_cuda
@pytest.mark.parametrize("name", ["blend", "ms_deform_attn"])
def test_atomic_adds_are_announced(name: str) -> None:
    op, args = OPS[name], cast(name, SMALL[name](), torch.float32, "cuda")
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            run(op.function, args, op.grads)
    finally:
        torch.use_deterministic_algorithms(False)
