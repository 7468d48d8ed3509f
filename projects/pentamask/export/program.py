"""From a model to PyTorch's exported program, in memory and as a .pt2 file."""

import contextlib
import json
import warnings
from typing import Any

import torch
from detectron2.config import CfgNode
from omegaconf import DictConfig
from packaging.version import Version
from torch import nn
from torch._dynamo.exc import UserError, UserErrorType
from torch.export import Dim, ExportedProgram

from pentamask.ops import plain_ops

from .exportable import Exportable
from .metadata import describe

# Of the picture that a free size is derived from: any would do that differs in height and width.
_SAMPLE_SIZE = (224, 288)
# Older ones cannot trace what is done with a number of detections that the picture decides.
_OLDEST_TORCH = "2.10"


def check_torch() -> None:
    """Raise `ImportError`, with what to install, if this PyTorch is too old to export."""
    if Version(torch.__version__) < Version(_OLDEST_TORCH):
        raise ImportError(f"Export needs PyTorch >= {_OLDEST_TORCH} (found {torch.__version__}): pip install -U torch.")


def export_program(
    model: nn.Module,
    cfg: CfgNode | DictConfig,
    path: str,
    *,
    portable: bool = False,
    masks: str = "roi",
    detections: str = "dynamic",
    size: tuple[int, int] | None = None,
    config_name: str = "",
) -> None:
    """Write a model as a program of PyTorch (.pt2), for `torch.export.load`; its metadata are in "pentamask.json".

    Args:
        model, cfg, masks, detections, size, config_name: see `export_onnx`.
        path: of the file to write.
        portable: without pentamask's operators; otherwise `import pentamask` must precede the loading.

    Raises:
        ValueError: the model or an option cannot be exported.
        ImportError: PyTorch is too old.
    """
    module = Exportable(model, masks=masks, detections=detections)
    metadata = describe(model, module, cfg, config_name=config_name, size=size)
    program = trace_program(module, size, portable=portable)
    torch.export.save(program, path, extra_files={"pentamask.json": json.dumps(metadata)})


def export_aot(
    model: nn.Module,
    cfg: CfgNode | DictConfig,
    path: str,
    *,
    masks: str = "roi",
    detections: str = "dynamic",
    size: tuple[int, int] | None = None,
    config_name: str = "",
) -> None:
    """Compile a model for this kind of machine: a package (.pt2) that C++ loads without Python.

    It has no operators of pentamask, but those of torchvision, whose library must be loaded first; see
    docs/deploy/README.md, also for loading it in Python.

    Args:
        model, cfg, masks, detections, size, config_name: see `export_onnx`.
        path: of the file to write.

    Raises:
        ValueError: the model or an option cannot be exported.
        ImportError: PyTorch is too old.
    """
    module = Exportable(model, masks=masks, detections=detections)
    metadata = describe(model, module, cfg, config_name=config_name, size=size)
    program = trace_program(module, size)
    # With it, a transposed convolution of a number of regions that is not known before gives wrong masks (2.11).
    settings: dict[str, Any] = {"layout_optimization": False}
    settings["aot_inductor.metadata"] = {"pentamask": json.dumps(metadata)}
    torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=settings)


def trace_program(module: Exportable, size: tuple[int, int] | None = None, *, portable: bool = True) -> ExportedProgram:
    """The program of a module for pictures (3, H, W) uint8.

    Args:
        module: of the model.
        size: the only height and width it is for; None for all from `module.inference.min_size` on.
        portable: compose pentamask's operators of PyTorch's own.

    Raises:
        ValueError: `size` is smaller than the model takes, or is needed.
        ImportError: PyTorch is too old.
    """
    check_torch()
    least = module.inference.min_size
    if size is not None and min(size) < least:
        raise ValueError(f"--size {size[0]} {size[1]}: this model takes pictures of {least} x {least} and more.")
    shape = size or tuple(max(side, least + side % 32) for side in _SAMPLE_SIZE)
    shape = (3, *shape) if module.batch is None else (module.batch, 3, *shape)
    image = torch.zeros(shape, dtype=torch.uint8, device=next(module.parameters()).device)
    dims = {image.dim() - 2: Dim("height", min=max(least, 2)), image.dim() - 1: Dim("width", min=max(least, 2))}
    free = None if size else (dims,)
    with torch.no_grad(), warnings.catch_warnings(), plain_ops() if portable else contextlib.nullcontext():
        warnings.simplefilter("ignore")  # of PyTorch's own code
        try:
            return torch.export.export(module, (image,), dynamic_shapes=free, strict=False)
        except UserError as error:
            if error.error_type is not UserErrorType.CONSTRAINT_VIOLATION:
                raise
            raise ValueError(
                "The model does different things for different heights and widths, as Swin with its windows does, and "
                "cannot be exported for all of them: give --size H W."
            ) from error
