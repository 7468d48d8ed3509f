"""Evaluation: the evaluators that a dataset's metadata asks for."""

from .build import build_evaluator

__all__ = ["build_evaluator"]
