"""Models as files that run without their code: `torch.export` programs and ONNX."""

from .exportable import Exportable
from .onnx_file import export_onnx
from .program import export_aot, export_program

__all__ = ["Exportable", "export_aot", "export_onnx", "export_program"]
