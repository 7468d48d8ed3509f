"""From backbone maps to the memory: channel mapper, positions, deformable encoder."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn

from pentamask.common import vector_of_sizes

from .deformable_attention import FeedForward, Memory, MultiScaleDeformableAttention, init_transformer


class ChannelMapper(nn.Module):
    """Brings the backbone maps to one width, and adds a level of half the size of the last."""

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        """Args: in_channels: of each backbone map; channels: C of all outputs, a multiple of 32."""
        super().__init__()
        self.convs = nn.ModuleList(_conv_gn(width, channels, 1, 1) for width in in_channels)
        self.extra_conv = _conv_gn(in_channels[-1], channels, 3, 2)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(N, C_l, h_l, w_l) maps -> (N, C, h_l, w_l) maps, one more than came."""
        return [*(conv(x) for conv, x in zip(self.convs, features)), self.extra_conv(features[-1])]


def _conv_gn(in_channels: int, channels: int, kernel_size: int, stride: int) -> Conv2d:
    norm = nn.GroupNorm(32, channels)
    conv = Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, bias=False, norm=norm)
    nn.init.xavier_uniform_(conv.weight)
    return conv


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward layer, post-norm."""

    def __init__(
        self, channels: int, hidden_channels: int, num_heads: int, num_levels: int, num_points: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(channels, num_heads, num_levels, num_points)
        self.dropout = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, hidden_channels, dropout)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, positions: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """The next tokens (N, S, C) of `memory`; `positions` (N, S, C), `references` (N, S, L, 2)."""
        x = memory.tokens
        x = self.norm1(x + self.dropout(self.self_attn(x + positions, references, memory)))
        return self.norm2(self.ffn(x))


class DeformableEncoder(nn.Module):
    """Deformable DETR's encoder over all levels (Panoptic SegFormer, section 3.2)."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        channels: int,
        hidden_channels: int,
        num_layers: int,
        num_heads: int,
        num_points: int,
        dropout: float,
    ) -> None:
        """
        Args:
            in_channels: of the backbone maps.
            channels: C.
            hidden_channels: of the feed-forward layers.
            num_layers, num_heads, num_points: layers, attention heads, points per head and level.
            dropout: of attention outputs and feed-forward layers.
        """
        super().__init__()
        num_levels = len(in_channels) + 1
        self.layers = nn.ModuleList(
            EncoderLayer(channels, hidden_channels, num_heads, num_levels, num_points, dropout)
            for _ in range(num_layers)
        )
        init_transformer(self)
        self.neck = ChannelMapper(in_channels, channels)
        self.level_embeds = nn.Parameter(torch.randn(num_levels, channels))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.PANOPTIC_SEGFORMER
        return {
            "in_channels": [input_shape[name].channels for name in node.IN_FEATURES],
            "channels": node.CHANNELS,
            "hidden_channels": node.FEEDFORWARD_CHANNELS,
            "num_layers": node.NUM_ENCODER_LAYERS,
            "num_heads": node.NUM_HEADS,
            "num_points": node.NUM_POINTS,
            "dropout": node.DROPOUT,
        }

    def forward(self, features: Sequence[Tensor], padding: Tensor | None = None) -> Memory:
        """
        Args:
            features: backbone maps (N, C_l, h_l, w_l).
            padding: (N, H, W) bool at the size of the images, True where a batch's smaller images were filled up;
                None if none was.

        Returns:
            The encoded levels: those of the backbone and one more.
        """
        maps = self.neck(features)
        masks = [_padding_at(x, padding) for x in maps]
        positions = [
            sine_positions(mask, x.shape[1]).to(x.dtype) + embed
            for x, mask, embed in zip(maps, masks, self.level_embeds)
        ]
        memory = Memory(
            tokens=torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1),
            shapes=[tuple(x.shape[-2:]) for x in maps],
            padding=None if padding is None else torch.cat([mask.flatten(1) for mask in masks], dim=1),
            valid_ratios=torch.stack([_valid_ratios(mask) for mask in masks], dim=1),
        )
        all_positions = torch.cat([x.flatten(1, 2) for x in positions], dim=1)
        references = _cell_centres(memory)
        for layer in self.layers:
            memory.tokens = layer(all_positions, references, memory)
        return memory


def _padding_at(x: Tensor, padding: Tensor | None) -> Tensor:
    """`padding` (N, H, W) at the size of a map (N, C, h, w)."""
    if padding is None:
        return torch.zeros_like(x[:, 0], dtype=torch.bool)
    return F.interpolate(padding[:, None].float(), x.shape[-2:])[:, 0] > 0


def sine_positions(padding: Tensor, channels: int) -> Tensor:
    """Sine encoding of row and column, each normalised to (0, 2 pi) over what is no padding (DETR, appendix A.4).

    Args:
        padding: (N, h, w) bool.
        channels: C; the first half encodes the row, the second the column.

    Returns:
        (N, h, w, C) float32, whatever the model's precision, as in the released code.
    """
    valid = (~padding).float()
    exponents = torch.arange(channels // 2, device=padding.device).div(2, rounding_mode="floor") * (4.0 / channels)
    wavelengths = 10000.0**exponents
    encoded = []
    for dim in (1, 2):
        count = valid.cumsum(dim=dim)
        total = count.narrow(dim, count.shape[dim] - 1, 1)
        angles = ((count - 0.5) / (total + 1e-6) * (2 * math.pi))[..., None] / wavelengths
        encoded.append(torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2))
    return torch.cat(encoded, dim=-1)


def _valid_ratios(padding: Tensor) -> Tensor:
    """(N, h, w) bool -> (N, 2) float32: share of columns, of rows, without padding."""
    return torch.stack([(~padding[:, 0]).float().mean(dim=1), (~padding[:, :, 0]).float().mean(dim=1)], dim=1)


def _cell_centres(memory: Memory) -> Tensor:
    """The centre of every token's cell in 0-1 of every level with its padding: (N, S, L, 2) float32, x first."""
    centres = []
    device = memory.tokens.device
    for level, (h, w) in enumerate(memory.shapes):
        rows = torch.arange(h, dtype=torch.float32, device=device) + 0.5
        columns = torch.arange(w, dtype=torch.float32, device=device) + 0.5
        grid = torch.stack([columns.expand(h, w), rows[:, None].expand(h, w)], dim=-1).flatten(0, 1)
        size = memory.valid_ratios[:, level] * vector_of_sizes([w, h], grid)
        centres.append(grid / size[:, None])
    return torch.cat(centres, dim=1)[:, :, None] * memory.valid_ratios[:, None]
