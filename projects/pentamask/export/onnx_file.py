"""From a model to a file of ONNX that runs without PyTorch."""

import json
import logging
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from detectron2.config import CfgNode
from omegaconf import DictConfig
from packaging.version import Version
from torch import nn
from torch.export import ExportedProgram

from .exportable import Exportable
from .metadata import describe
from .program import trace_program

_logger = logging.getLogger(__name__)
# Older ones have no RoIAlign, or a wrong one; 0.7.1 is the first with a deformable convolution.
_PACKAGES = {"onnx": "1.16", "onnxscript": "0.7.1", "onnxruntime": "1.20"}
_OPSET, _DEFORMABLE_OPSET = 18, 19


def check_packages(*names: str) -> None:
    """Raise `ImportError`, with what to install, unless the packages of that name are there in the versions needed."""
    wrong = []
    for name in names:
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "none"
        if found == "none" or Version(found) < Version(_PACKAGES[name]):
            wrong.append(f"{name} >= {_PACKAGES[name]} (found {found})")
    if wrong:
        raise ImportError(f"ONNX files need {' and '.join(wrong)}: pip install 'pentamask[onnx]'.")


def export_onnx(
    model: nn.Module,
    cfg: CfgNode | DictConfig,
    path: str,
    *,
    masks: str = "roi",
    detections: str = "dynamic",
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    opset: int | None = None,
    half: bool = False,
    config_name: str = "",
) -> None:
    """Write a model as one ONNX file: a picture (3, H, W) uint8 in, boxes, scores, classes and masks out.

    Standard operators only. The metadata hold all that `pentamask_runner` needs.

    Args:
        model: with its weights; it stays as it is.
        cfg: its config.
        path: of the file to write.
        masks, detections, batch: see `Exportable`.
        size: (height, width) of the only pictures that the file takes; None for any.
        opset: of ONNX; None for the lowest that the model can do with, 18, or 19 with deformable convolution.
        half: weights and most of the computation in float16, see `to_half`.
        config_name: for the metadata.

    Raises:
        ValueError: the model or an option cannot be exported.
        ImportError: a package is missing or too old.
    """
    check_packages("onnx", "onnxscript")
    import onnx

    module = Exportable(model, masks=masks, detections=detections, batch=batch)
    metadata = describe(model, module, cfg, config_name=config_name, size=size)
    program = trace_program(module, size)
    proto = _translate(program, _choose_opset(program, opset), module.output_names)
    if half:
        from .half import to_half

        proto = to_half(proto)
    metadata["precision"] = "float16" if half else "float32"
    onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in metadata.items()})
    domains = {node.domain for node in proto.graph.node} | {function.domain for function in proto.functions}
    assert domains <= {""}, f"operators outside of ONNX's standard: {domains}"
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    _logger.info("Wrote %s: %d nodes, %.1f MB.", path, len(proto.graph.node), proto.ByteSize() / 1e6)


def _choose_opset(program: ExportedProgram, wanted: int | None) -> int:
    deformable = any(node.target is torch.ops.torchvision.deform_conv2d.default for node in program.graph.nodes)
    least = _DEFORMABLE_OPSET if deformable else _OPSET
    if wanted is not None and wanted < least:
        reason = "has deformable convolutions, which need" if deformable else "needs"
        raise ValueError(f"--opset {wanted}: this model {reason} {least} or a later one.")
    return wanted or least


def _translate(program: ExportedProgram, opset: int, output_names: list[str]) -> Any:
    """The program as `onnx.ModelProto`."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)  # they report what they could not simplify
    names: dict[str, Any] = {"input_names": ["image"], "output_names": output_names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's own code
            translated = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False, **names)
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
    assert translated is not None
    return translated.model_proto
