"""Where mixed precision has to end."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it has a shorter type: scores, boxes, losses and sums over masks lose too much in 16 bit."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
