"""Multi-scale deformable attention and the layers' feed-forward part (Deformable DETR, arXiv 2010.04159)."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pentamask.common import vector_of_sizes
from pentamask.ops import has_compiled_ops, ms_deform_attn


@dataclass
class Memory:
    """Maps of several levels as one list of tokens, levels in order, each row by row.

    Attributes:
        tokens: (N, S, C), S the sum of h * w over the L levels.
        shapes: (h, w) of each level.
        padding: (N, S) bool, True where the batch's padding lies; None if there is none.
        valid_ratios: (N, L, 2) float32, share of columns and of rows that are no padding.
    """

    tokens: Tensor
    shapes: list[tuple[int, int]]
    padding: Tensor | None
    valid_ratios: Tensor

    @cached_property
    def level_table(self) -> tuple[Tensor, Tensor]:
        """`shapes` as a tensor (L, 2), and the first token of each level (L,), on the device of the tokens."""
        long = torch.zeros((), dtype=torch.int64, device=self.tokens.device)
        shapes = vector_of_sizes([size for shape in self.shapes for size in shape], long).unflatten(0, (-1, 2))
        return shapes, F.pad(shapes.prod(dim=1).cumsum(dim=0)[:-1], (1, 0))

    def image(self, n: int, num_levels: int) -> tuple[Tensor, list[tuple[int, int]]]:
        """Image `n` without its padding: tokens (S', C) and shapes of the first `num_levels` levels."""
        if self.padding is None:
            shapes = self.shapes[:num_levels]
            return self.tokens[n, : sum(h * w for h, w in shapes)], shapes
        tokens, shapes, start = [], [], 0
        for (h, w), (columns, rows) in zip(self.shapes[:num_levels], self.valid_ratios[n].tolist()):
            shapes.append((round(rows * h), round(columns * w)))
            level = self.tokens[n, start : start + h * w].unflatten(0, (h, w))
            tokens.append(level[: shapes[-1][0], : shapes[-1][1]].flatten(0, 1))
            start += h * w
        return torch.cat(tokens), shapes


class MultiScaleDeformableAttention(nn.Module):
    """Every query looks at a few sampled points of every level (Deformable DETR, eq. 3)."""

    def __init__(self, channels: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(channels, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(channels, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def reset_parameters(self) -> None:
        """Head k starts looking in direction k, its n-th point at distance n; all points weigh the same."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions = directions / directions.abs().amax(dim=1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1)
        offsets = directions[:, None, None] * distances[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        for parameter in (self.sampling_offsets.weight, *self.attention_weights.parameters()):
            nn.init.zeros_(parameter)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """
        Args:
            query: (N, Q, C), position included.
            references: (N, Q, L, 2) points, or (N, Q, L, 4) boxes cxcywh, in 0-1 of each level with its padding.
            memory: where to look; padding counts as zero.

        Returns:
            (N, Q, C).
        """
        value = self.value_proj(memory.tokens)
        if memory.padding is not None:
            value = value.masked_fill(memory.padding[..., None], 0.0)
        shapes, starts = memory.level_table
        locations, weights = self.samples(query, references, shapes)
        value = value.unflatten(2, (self.num_heads, -1))
        # The plain version is faster with sizes that are numbers.
        levels: Any = (shapes, starts) if has_compiled_ops(value.device.type) else (memory.shapes, None)
        return self.output_proj(ms_deform_attn(value, levels[0], levels[1], locations, weights))

    def samples(self, query: Tensor, references: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
        """Where each query looks.

        Args:
            query, references: see `forward`.
            shapes: (L, 2) int64, height and width of each level.

        Returns:
            With h heads and P points, locations (N, Q, h, L, P, 2), x first, in 0-1 of each level with its padding, and
            weights (N, Q, h, L, P), which add up to 1 over L and P.
        """
        layout = (self.num_levels, self.num_points)
        weights = self.attention_weights(query).unflatten(2, (self.num_heads, -1)).softmax(dim=-1).unflatten(3, layout)
        # Everything for (N, Q, h, L * P * 2): arithmetic on pairs is slow.
        offsets = self.sampling_offsets(query).unflatten(2, (self.num_heads, -1))
        centres, sizes = self._for_points(references[:, :, None, :, :2]), references[:, :, None, :, 2:]
        if sizes.shape[-1]:
            offsets = offsets / self.num_points * self._for_points(sizes) * 0.5
        else:
            offsets = offsets / self._for_points(shapes.flip(1))
        return (centres + offsets).unflatten(3, (*layout, 2)), weights

    def _for_points(self, pairs: Tensor) -> Tensor:
        """(..., L, 2) -> (..., L * P * 2), the same for all points of a level."""
        return pairs[..., None, :].expand(*pairs.shape[:-1], self.num_points, 2).flatten(-3)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, dropout, and the residual."""

    def __init__(self, channels: int, hidden_channels: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden_channels)
        self.linear2 = nn.Linear(hidden_channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))


def init_transformer(module: nn.Module) -> None:
    """Initialise matrices Xavier-uniform, and deformable attention by its own rule (Deformable DETR, appendix A.4)."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for child in module.modules():
        if isinstance(child, MultiScaleDeformableAttention):
            child.reset_parameters()
