"""Mask decoder: masks are read off the attention between queries and memory.

Everything here is about one image: Q queries, h heads, S tokens of the l = 1..3 levels of strides 8, 16 and 32.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pentamask.common import at_least_float32

_EPS = 1e-6  # of all norms here


class AttentionMask(nn.Module):
    """A mask per query from its attention to the levels (Panoptic SegFormer, eqs. 4 and 5)."""

    def __init__(self, channels: int, num_heads: int, num_levels: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.level_linears = nn.ModuleList(nn.Linear(num_heads, num_heads) for _ in range(num_levels))
        self.linear = nn.Linear(num_levels * num_heads, 1)

    def forward(self, x: Tensor, memory: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """
        Args:
            x: (Q, C) queries.
            memory: (S, C) tokens.
            shapes: (h_l, w_l) of each level.

        Returns:
            (Q, h_1, w_1), at least 0 and unbounded; a pixel is inside above 0.5.
        """
        return self.masks(self.logits(x, memory, shapes), shapes)

    def logits(self, x: Tensor, memory: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The attention logits (h, Q, h_l * w_l) of each level; arguments as those of `forward`."""
        q, k = self._scaled_query(x), self._split_heads(self.k(memory))
        return [q @ k_l.mT for k_l in k.split([h * w for h, w in shapes], dim=1)]

    def masks(self, logits: Sequence[Tensor], shapes: Sequence[tuple[int, int]]) -> Tensor:
        """The masks from the attention logits (h, Q, h_l * w_l) of each level.

        The released code resizes h channels per level and adds them up with weights; here they are added up first. It
        is the same, because resizing is linear, and needs h times less memory.
        """
        weights = self.linear.weight.chunk(len(shapes), dim=1)
        total = self.linear.bias[0]
        for level, (level_logits, level_linear, weight) in enumerate(zip(logits, self.level_linears, weights)):
            flat = level_logits.flatten(1)
            features = F.relu(torch.addmm(level_linear.bias[:, None], level_linear.weight, flat))  # type: ignore[index, arg-type]
            level_mask = at_least_float32(weight @ features).view(-1, 1, *shapes[level])
            if level > 0:
                level_mask = F.interpolate(level_mask, shapes[0], mode="bilinear", align_corners=False)
            total = total + level_mask[:, 0]
        return F.relu(total)

    def _scaled_query(self, x: Tensor) -> Tensor:
        return self._split_heads(self.q(x)) * (x.shape[1] // self.num_heads) ** -0.5

    def _split_heads(self, x: Tensor) -> Tensor:
        """(n, C) -> (h, n, C / h)."""
        return x.unflatten(1, (self.num_heads, -1)).transpose(0, 1)


class MaskAttention(AttentionMask):
    """Attention of the queries to the memory, whose logits also give the masks."""

    def __init__(self, channels: int, num_heads: int, num_levels: int) -> None:
        super().__init__(channels, num_heads, num_levels)
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(
        self, x: Tensor, memory: Tensor, shapes: Sequence[tuple[int, int]], with_masks: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attention output (Q, C), and the masks (Q, h_1, w_1) if `with_masks`; arguments as `AttentionMask`."""
        q, k, v = self._scaled_query(x), self._split_heads(self.k(memory)), self._split_heads(self.v(memory))
        if with_masks:
            logits = q @ k.mT
            masks = self.masks(logits.split([h * w for h, w in shapes], dim=2), shapes)
            out = logits.softmax(dim=-1) @ v
        else:
            masks = None
            out = F.scaled_dot_product_attention(q[None], k[None], v[None], scale=1.0)[0]
        return self.proj(out.transpose(0, 1).flatten(1)), masks


class SelfAttention(nn.Module):
    """Multi-head attention among the queries."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(Q, C) -> (Q, C)."""
        q, k, v = self.qkv(x).unflatten(1, (3, self.num_heads, -1)).permute(1, 2, 0, 3)
        return self.proj(F.scaled_dot_product_attention(q[None], k[None], v[None])[0].transpose(0, 1).flatten(1))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class MaskDecoderBlock(nn.Module):
    """Self-attention (of stuff queries only), attention to the memory, feed-forward layer; post-norm."""

    def __init__(
        self, channels: int, hidden_channels: int, num_heads: int, num_levels: int, self_attention: bool
    ) -> None:
        super().__init__()
        self.self_attention = SelfAttention(channels, num_heads) if self_attention else None
        self.norm3 = nn.LayerNorm(channels, eps=_EPS) if self_attention else None
        self.attn = MaskAttention(channels, num_heads, num_levels)
        self.head_norm1 = nn.LayerNorm(channels, eps=_EPS)
        self.mlp = MLP(channels, hidden_channels)
        self.head_norm2 = nn.LayerNorm(channels, eps=_EPS)

    def forward(
        self, x: Tensor, memory: Tensor, shapes: Sequence[tuple[int, int]], with_masks: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The next queries (Q, C) and their masks; arguments as `MaskAttention`."""
        if self.self_attention is not None and self.norm3 is not None:
            x = self.norm3(x + self.self_attention(x))
        out, masks = self.attn(x, memory, shapes, with_masks)
        x = self.head_norm1(x + out)
        return self.head_norm2(x + self.mlp(x)), masks


class MaskDecoder(nn.Module):
    """Blocks that refine the queries and a last attention that gives their masks (section 3.4, "mask decoder")."""

    def __init__(
        self,
        *,
        channels: int,
        hidden_channels: int,
        num_blocks: int,
        num_heads: int,
        num_levels: int,
        self_attention: bool,
    ) -> None:
        """
        Args:
            channels, hidden_channels: of the queries, of the feed-forward layers.
            num_blocks: blocks before the last attention.
            num_heads, num_levels: attention heads, levels of the memory.
            self_attention: whether the queries see each other.
        """
        super().__init__()
        self.blocks = nn.ModuleList(
            MaskDecoderBlock(channels, hidden_channels, num_heads, num_levels, self_attention)
            for _ in range(num_blocks)
        )
        self.tail = AttentionMask(channels, num_heads, num_levels)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        shapes: Sequence[tuple[int, int]],
        positions: Tensor | None = None,
        with_block_masks: bool = False,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """
        Args:
            x: (Q, C) queries.
            memory: (S, C) tokens of one image.
            shapes: (h_l, w_l) of each level.
            positions: (Q, C), added to the queries before every block and, as in the released code, carried on.
            with_block_masks: also return the blocks' masks, for deep supervision.

        Returns:
            The queries (Q, C) after each block; the masks (Q, h_1, w_1) of each block if asked for, and the final ones.
        """
        queries, masks = [], []
        for block in self.blocks:
            x, block_masks = block(x if positions is None else x + positions, memory, shapes, with_block_masks)
            queries.append(x)
            if block_masks is not None:
                masks.append(block_masks)
        masks.append(self.tail(x if positions is None else x + positions, memory, shapes))
        return queries, masks
