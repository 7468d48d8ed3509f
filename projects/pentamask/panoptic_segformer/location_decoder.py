"""Location decoder: thing queries that learn where their object is."""

import copy
import math
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torchvision.ops import box_convert, clip_boxes_to_image

from pentamask.common import at_least_float32, vector_of_sizes

from .deformable_attention import FeedForward, Memory, MultiScaleDeformableAttention, init_transformer


@dataclass
class Locations:
    """What the location decoder says about the thing queries; D layers, Q queries, T classes.

    Attributes:
        queries: (N, Q, C) of the last layer.
        logits: (D, N, Q, T) class logits.
        boxes: (D, N, Q, 4) cxcywh in 0-1 of the image without padding.
    """

    queries: Tensor
    logits: Tensor
    boxes: Tensor


class DecoderLayer(nn.Module):
    """Self-attention of the queries, deformable attention to the memory, feed-forward layer; post-norm."""

    def __init__(
        self, channels: int, hidden_channels: int, num_heads: int, num_levels: int, num_points: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, num_heads, dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attn = MultiScaleDeformableAttention(channels, num_heads, num_levels, num_points)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, hidden_channels, dropout)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """
        Args:
            x, positions: (N, Q, C) queries and their positions.
            references: (N, Q, L, 2 or 4), see `MultiScaleDeformableAttention`.
            memory: the encoded image.

        Returns:
            (N, Q, C).
        """
        q = x + positions
        x = self.norm1(x + self.dropout(self.self_attn(q, q, x, need_weights=False)[0]))
        x = self.norm2(x + self.dropout(self.cross_attn(x + positions, references, memory)))
        return self.norm3(self.ffn(x))


class LocationDecoder(nn.Module):
    """Deformable DETR's decoder with iterative box refinement (Panoptic SegFormer, section 3.3).

    Its last queries and boxes go on; every layer is trained on boxes and classes.
    """

    @configurable
    def __init__(
        self,
        *,
        num_queries: int,
        num_classes: int,
        channels: int,
        hidden_channels: int,
        num_layers: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        dropout: float,
    ) -> None:
        """
        Args:
            num_queries, num_classes: Q, T.
            num_levels: of the memory.
            channels, hidden_channels, num_layers, num_heads, num_points, dropout: see `DeformableEncoder`.
        """
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"MODEL.PANOPTIC_SEGFORMER.NUM_QUERIES is {num_queries}: it must be 1 or more.")
        self.layers = nn.ModuleList(
            DecoderLayer(channels, hidden_channels, num_heads, num_levels, num_points, dropout)
            for _ in range(num_layers)
        )
        self.reference_points = nn.Linear(channels, 2)
        init_transformer(self)
        nn.init.zeros_(self.reference_points.bias)
        # Position, then content.
        self.query_embedding = nn.Embedding(num_queries, 2 * channels)
        self.cls_branches = nn.ModuleList(copies_of(class_branch(channels, num_classes), num_layers))
        self.reg_branches = nn.ModuleList(copies_of(_box_branch(channels), num_layers))
        # The first layer's boxes are an eighth of the image wide; the others correct their predecessor's.
        nn.init.constant_(self.reg_branches[0][-1].bias[2:], -2.0)  # type: ignore[index]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.PANOPTIC_SEGFORMER
        return {
            "num_queries": node.NUM_QUERIES,
            "num_classes": node.NUM_THING_CLASSES,
            "channels": node.CHANNELS,
            "hidden_channels": node.FEEDFORWARD_CHANNELS,
            "num_layers": node.NUM_DECODER_LAYERS,
            "num_heads": node.NUM_HEADS,
            "num_levels": len(node.IN_FEATURES) + 1,
            "num_points": node.NUM_POINTS,
            "dropout": node.DROPOUT,
        }

    def forward(self, memory: Memory) -> Locations:
        """Classes and boxes of all queries after each layer; a layer's boxes pass no gradient to earlier ones."""
        positions, x = self.query_embedding.weight.expand(len(memory.tokens), -1, -1).chunk(2, dim=-1)
        references = at_least_float32(self.reference_points(positions)).sigmoid()
        logits, boxes = [], []
        for layer, cls_branch, reg_branch in zip(self.layers, self.cls_branches, self.reg_branches):
            size = references.shape[-1]
            ratios = memory.valid_ratios.repeat(1, 1, size // 2)
            x = layer(x, positions, references[:, :, None] * ratios[:, None], memory)
            delta = at_least_float32(reg_branch(x))
            delta = torch.cat([delta[..., :size] + inverse_sigmoid(references), delta[..., size:]], dim=-1)
            boxes.append(delta.sigmoid())
            logits.append(at_least_float32(cls_branch(x)))
            references = boxes[-1].detach()
        return Locations(queries=x, logits=torch.stack(logits), boxes=torch.stack(boxes))


def output_boxes(boxes: Tensor, image_size: tuple[int, int], output_size: tuple[int, int]) -> Tensor:
    """(n, 4) cxcywh in 0-1 -> xyxy in pixels of the output, cut off at the image's border."""
    (height, width), (out_height, out_width) = image_size, output_size
    size = vector_of_sizes([width, height], boxes)
    pixels = box_convert(boxes, "cxcywh", "xyxy") * size.repeat(2)
    scale = vector_of_sizes([out_width, out_height], boxes) / size
    return clip_boxes_to_image(pixels, image_size) * scale.repeat(2)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) of x in 0-1, with numerator and denominator at least `eps`."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


def class_branch(channels: int, num_classes: int) -> nn.Linear:
    """A linear classifier that starts at probability 0.01 (RetinaNet, section 4.1)."""
    linear = nn.Linear(channels, num_classes)
    nn.init.constant_(linear.bias, -math.log(99))
    return linear


def copies_of(module: nn.Module, count: int) -> list[nn.Module]:
    """`count` modules with parameters of their own that start equal."""
    return [copy.deepcopy(module) for _ in range(count)]


def _box_branch(channels: int) -> nn.Sequential:
    last = nn.Linear(channels, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    hidden = [nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()]
    return nn.Sequential(*hidden, last)
