"""Loads the compiled operators, and says once what to do if they are missing."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

BUILD_HINT = "build them with `pip install --no-build-isolation .` in pentamask's checkout (a C++ compiler is needed)"


def _load() -> str | None:
    """Import the extension, which registers `torch.ops.pentamask`; returns why that failed, None if it did not."""
    try:
        importlib.import_module("pentamask._C")
    except ImportError as error:
        return str(error)
    return None


def _compiled_devices() -> frozenset[str]:
    """The device types that have kernels; meta tensors go through the shape functions."""
    reason = _load()
    if reason is not None:
        warnings.warn(
            f"pentamask's compiled ops are missing ({reason}): slower PyTorch versions run; {BUILD_HINT}", stacklevel=2
        )
        return frozenset()
    if torch._C._dispatch_has_kernel_for_dispatch_key("pentamask::blend", "CUDA"):
        return frozenset({"cpu", "cuda", "meta"})
    if torch.cuda.is_available():
        warnings.warn(
            f"pentamask's ops were compiled without CUDA: slower PyTorch versions run on GPUs; {BUILD_HINT}",
            stacklevel=2,
        )
    return frozenset({"cpu", "meta"})


COMPILED_DEVICES = _compiled_devices()


# How many `plain_ops` are active. A number, because `torch.compile` cannot look into a ContextVar; another thread
# meanwhile gets the plain versions, too, which are only slower.
_plain_depth = 0


def has_compiled_ops(device_type: str = "cpu") -> bool:
    """Whether compiled kernels exist for tensors on devices of `device_type` ("cpu", "cuda", ...), and may be used."""
    return device_type in COMPILED_DEVICES and _plain_depth == 0


@contextmanager
def plain_ops() -> Iterator[None]:
    """Within it the operators are composed of PyTorch's own, for files that are to run without pentamask."""
    global _plain_depth
    _plain_depth += 1
    try:
        yield
    finally:
        _plain_depth -= 1


def is_exporting() -> bool:
    """Whether a graph is being made that has to run without pentamask, on pictures of any size."""
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch < 2.7 has only the second
    return exporting() or torch.jit.is_tracing()


def no_double_backward(name: str) -> None:
    """Make differentiating a backward op an error.

    Args:
        name: of the backward op, e.g. "pentamask::blend_backward".
    """

    def refuse(ctx: Any, *grads: torch.Tensor) -> None:
        raise NotImplementedError(f"{name} has no derivative: double backward (create_graph=True) is not supported")

    torch.library.register_autograd(name, refuse)


def no_vmap(name: str) -> None:
    """Make `torch.vmap` over an op an error that names it."""

    def refuse(info: Any, in_dims: tuple, *args: Any) -> None:
        raise NotImplementedError(f"{name} does not support torch.vmap: its tensors have a batch dimension already")

    torch.library.register_vmap(name, refuse)
