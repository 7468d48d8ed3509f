"""A file in half precision."""

from typing import Any

# Steps that lose too much, or that onnxruntime knows in float32 only: coordinates, comparisons, sampling.
_IN_FLOAT32 = [
    *("NonMaxSuppression", "TopK", "RoiAlign", "Resize", "GridSample", "DeformConv", "Range", "NonZero", "ScatterND"),
    *("IsInf", "IsNaN", "Exp", "Log", "Sqrt", "ReduceMax", "CumSum", "LayerNormalization", "Softmax"),
    "GroupNormalization",
]


def to_half(model: Any) -> Any:
    """An `onnx.ModelProto` whose convolutions and matrix products, and their weights, are float16.

    Inputs and outputs stay as they are.

    Args:
        model: in float32; is changed.
    """
    import onnx_ir
    from onnx_ir.passes.common import TopologicalSortPass
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(model, keep_io_types=True, op_block_list=_IN_FLOAT32)
    # The converter appends its casts at the end.
    return onnx_ir.to_proto(TopologicalSortPass()(onnx_ir.from_proto(converted)).model)
