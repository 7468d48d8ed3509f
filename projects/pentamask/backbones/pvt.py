"""Pyramid Vision Transformer v2 (arXiv 2106.13797), parameters named as in its released files."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from pentamask.common import check_choice, register

# Of the papers' five variants: (channels, MLP ratios, blocks), one number per stage.
_SMALL, _LARGE = (32, 64, 160, 256), (64, 128, 320, 512)
VARIANTS = {
    "b0": (_SMALL, (8, 8, 4, 4), (2, 2, 2, 2)),
    "b1": (_LARGE, (8, 8, 4, 4), (2, 2, 2, 2)),
    "b2": (_LARGE, (8, 8, 4, 4), (3, 4, 6, 3)),
    "b3": (_LARGE, (8, 8, 4, 4), (3, 4, 18, 3)),
    "b4": (_LARGE, (8, 8, 4, 4), (3, 8, 27, 3)),
    "b5": (_LARGE, (4, 4, 4, 4), (3, 6, 40, 3)),
}
_NUM_HEADS = (1, 2, 5, 8)
_REDUCTIONS = (8, 4, 2, 1)
_BLOCK_EPS = 1e-6  # of the norms of blocks and stages; those after a convolution have PyTorch's 1e-5


class PatchEmbed(nn.Module):
    """Overlapping patches: a strided convolution, then a norm of the tokens."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(N, C, H, W) -> (N, H' * W', C') tokens and (H', W')."""
        x = self.proj(x)
        return self.norm(_to_tokens(x)), (x.shape[-2], x.shape[-1])


class Attention(nn.Module):
    """Multi-head attention whose keys and values come from a map reduced `reduction` times in both directions."""

    def __init__(self, channels: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.reduction = reduction
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, H * W, C) tokens of a map of `size` (H, W) -> (N, H * W, C)."""
        source = x if self.reduction == 1 else self.norm(_to_tokens(self.sr(_to_map(x, size))))
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(source).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DepthwiseConv(nn.Module):
    """A depthwise 3x3 convolution on tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, H * W, C) -> the same shape."""
        return _to_tokens(self.dwconv(_to_map(x, size)))


class MLP(nn.Module):
    """Feed-forward layer with a depthwise convolution, which makes positions known."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.dwconv = DepthwiseConv(hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, H * W, C) -> the same shape."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), size)))


class Block(nn.Module):
    """Pre-norm attention and feed-forward layer, each with stochastic depth."""

    def __init__(self, channels: int, num_heads: int, mlp_ratio: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=_BLOCK_EPS)
        self.attn = Attention(channels, num_heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=_BLOCK_EPS)
        self.mlp = MLP(channels, channels * mlp_ratio)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, H * W, C) -> the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class PyramidVisionTransformerV2(Backbone):
    """PVTv2: four stages "stage1" ... "stage4" of strides 4, 8, 16 and 32. Images need no padding."""

    def __init__(
        self,
        *,
        in_channels: int,
        channels: Sequence[int],
        mlp_ratios: Sequence[int],
        depths: Sequence[int],
        drop_path_rate: float,
        out_features: Sequence[str],
    ) -> None:
        """
        Args:
            in_channels: of the image.
            channels, mlp_ratios, depths: of each stage, see `VARIANTS`.
            drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
            out_features: names of the stages to return.
        """
        super().__init__()
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        for i, (width, heads, ratio, reduction) in enumerate(zip(channels, _NUM_HEADS, mlp_ratios, _REDUCTIONS)):
            before = channels[i - 1] if i else in_channels
            blocks = [Block(width, heads, ratio, reduction, next(drop_paths)) for _ in range(depths[i])]
            self.add_module(f"patch_embed{i + 1}", PatchEmbed(before, width, 3 if i else 7, 2 if i else 4))
            self.add_module(f"block{i + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(width, eps=_BLOCK_EPS))
        self._out_features = list(out_features)
        self._out_feature_channels = {f"stage{i}": width for i, width in enumerate(channels, start=1)}
        self._out_feature_strides = {f"stage{i}": 2 ** (i + 1) for i in range(1, len(channels) + 1)}
        unknown = set(out_features) - set(self._out_feature_channels)
        if unknown:
            known = ", ".join(self._out_feature_channels)
            raise ValueError(f"MODEL.PVT.OUT_FEATURES names {', '.join(sorted(unknown))}; choose from {known}.")
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) image -> name -> (N, C_s, H_s, W_s), sizes rounded up."""
        outputs = {}
        for i in range(1, len(self._out_feature_channels) + 1):
            x, size = getattr(self, f"patch_embed{i}")(x)
            for block in getattr(self, f"block{i}"):
                x = block(x, size)
            x = _to_map(getattr(self, f"norm{i}")(x), size)
            if f"stage{i}" in self._out_features:
                outputs[f"stage{i}"] = x
        return outputs


def _to_tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def _to_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H * W, C) -> (N, C, H, W)."""
    return x.transpose(1, 2).unflatten(2, size)


def _init_weights(module: nn.Module) -> None:
    """Linear N(0, 0.02), cut off; convolutions N(0, sqrt(2 / fan-out)); biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # it has one
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # it has one


@register(BACKBONE_REGISTRY)
def build_pvt_v2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PyramidVisionTransformerV2:
    """PVTv2 as `MODEL.PVT` describes it."""
    node = cfg.MODEL.PVT
    check_choice("MODEL.PVT.VARIANT", node.VARIANT, VARIANTS)
    if cfg.MODEL.BACKBONE.FREEZE_AT >= 0:
        raise ValueError(
            f"PVTv2 has no frozen stages: set MODEL.BACKBONE.FREEZE_AT to -1, it is {cfg.MODEL.BACKBONE.FREEZE_AT}."
        )
    channels, mlp_ratios, depths = VARIANTS[node.VARIANT]
    return PyramidVisionTransformerV2(
        in_channels=input_shape.channels,
        channels=channels,
        mlp_ratios=mlp_ratios,
        depths=depths,
        drop_path_rate=node.DROP_PATH_RATE,
        out_features=node.OUT_FEATURES,
    )
