"""Training: Detectron2's trainer with our data, optimizers, checkpointer and checks of the input."""

from .optimizer import build_optimizer
from .trainer import Trainer

__all__ = ["Trainer", "build_optimizer"]
