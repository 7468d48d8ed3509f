"""The operators that PyTorch lacks: compiled for CPU and CUDA, with a plain PyTorch version of each."""

from ._extension import has_compiled_ops, is_exporting, plain_ops
from .blend import blend
from .ms_deform_attn import ms_deform_attn
from .spatial_attention import spatial_attention

__all__ = ["blend", "has_compiled_ops", "is_exporting", "ms_deform_attn", "plain_ops", "spatial_attention"]
