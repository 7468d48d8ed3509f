"""A page about a training or an evaluation, made from the files that it left."""

from .build import write_report
from .inside import report_run

__all__ = ["report_run", "write_report"]
