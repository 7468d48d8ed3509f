"""Faster inference from a finished model."""

from .compile import compile_dense_parts
from .optimize import optimize_for_inference

__all__ = ["compile_dense_parts", "optimize_for_inference"]
