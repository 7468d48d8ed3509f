"""Contents of the checkpoints that several tests write: weights of `nn.Linear(3, 2)`, and an attack."""

import os

import torch

WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([7.0, 8.0])}
ARRAYS = {name: value.numpy() for name, value in WEIGHTS.items()}


class Command:
    """Pickles as a shell command."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple:
        return os.system, (self.text,)
