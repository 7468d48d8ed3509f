"""The convolutional head that FCOS shares over all levels."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn

from pentamask.common import check_choice
from pentamask.ops.deform_conv import modulated_deform_conv

_SINGLE_NORMS = {"GN": "GN", "NaiveGN": "GN"}
_LEVEL_NORMS = {"BN": "BN", "SyncBN": "SyncBN"}


class FCOSOutputs(NamedTuple):
    """Raw predictions, one tensor per level.

    Attributes:
        logits: (N, K, H, W) class logits.
        reg: (N, 4, H, W) distances to the left, top, right and bottom side, >= 0, in strides of the level.
        ctrness: (N, 1, H, W) logit of the box quality.
        box_features: (N, C, H, W) output of the box tower.
    """

    logits: list[Tensor]
    reg: list[Tensor]
    ctrness: list[Tensor]
    box_features: list[Tensor]


class Scale(nn.Module):
    """Multiplies by one learnable number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class ModulatedDeformConv(nn.Module):
    """3x3 deformable convolution (DCNv2) that predicts its own offsets and modulation, with bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(channels, 27, 3, padding=1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return modulated_deform_conv(x, self.offset(x), self.conv.weight, self.conv.bias)


class Tower(nn.Sequential):
    """[3x3 convolution, norm, ReLU] repeated, flat as in the authors' files.

    A batch norm is a list with one norm per level, because the levels' statistics differ.
    """

    def __init__(self, channels: int, num_convs: int, norm: str, num_levels: int, last_deformable: bool) -> None:
        layers: list[nn.Module] = []
        check_choice("MODEL.FCOS.NORM", norm, (*_SINGLE_NORMS, *_LEVEL_NORMS, "none"))
        for i in range(num_convs):
            deformable = last_deformable and i == num_convs - 1
            layers.append(ModulatedDeformConv(channels) if deformable else nn.Conv2d(channels, channels, 3, padding=1))
            if norm in _SINGLE_NORMS:
                layers.append(get_norm(_SINGLE_NORMS[norm], channels))
            elif norm in _LEVEL_NORMS:
                layers.append(nn.ModuleList(get_norm(_LEVEL_NORMS[norm], channels) for _ in range(num_levels)))
            layers.append(nn.ReLU())
        super().__init__(*layers)

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Args: x: (N, C, H, W) features of level number `level`."""
        for layer in self:
            x = layer[level](x) if isinstance(layer, nn.ModuleList) else layer(x)
        return x


class FCOSHead(nn.Module):
    """Towers and predictors of FCOS (section 3.1 of the paper; as in the released code the box quality branch sits
    on the box tower and the regression is a ReLU in stride units instead of exp)."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_levels: int,
        num_share_convs: int = 0,
        num_cls_convs: int = 4,
        num_box_convs: int = 4,
        norm: str = "GN",
        use_scale: bool = True,
        use_deformable: bool = False,
        prior_prob: float = 0.01,
    ) -> None:
        """
        Args:
            in_channels: channels C of every input level.
            num_classes: classes K without background.
            num_levels: levels L the head is applied to.
            num_share_convs, num_cls_convs, num_box_convs: convolutions of the shared, class and box towers.
            norm: "GN", "BN" or "SyncBN" (one per level), or "none".
            use_scale: give every level a learnable factor on the regression.
            use_deformable: make the last convolution of the class and box towers deformable.
            prior_prob: class probability at initialisation.
        """
        super().__init__()
        self.share_tower = Tower(in_channels, num_share_convs, norm, num_levels, False)
        self.cls_tower = Tower(in_channels, num_cls_convs, norm, num_levels, use_deformable)
        self.bbox_tower = Tower(in_channels, num_box_convs, norm, num_levels, use_deformable)
        self.cls_logits = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.ctrness = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in range(num_levels)) if use_scale else None
        self.in_channels = in_channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # it has one
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_prob) / prior_prob))  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict:
        """Args: input_shape: of the levels in `MODEL.FCOS.IN_FEATURES`, which must agree in channels."""
        channels = {shape.channels for shape in input_shape}
        if len(channels) != 1:
            raise ValueError(f"FCOS needs levels of equal channels, MODEL.FCOS.IN_FEATURES gives {sorted(channels)}.")
        node = cfg.MODEL.FCOS
        return {
            "in_channels": channels.pop(),
            "num_classes": node.NUM_CLASSES,
            "num_levels": len(input_shape),
            "num_share_convs": node.NUM_SHARE_CONVS,
            "num_cls_convs": node.NUM_CLS_CONVS,
            "num_box_convs": node.NUM_BOX_CONVS,
            "norm": node.NORM,
            "use_scale": node.USE_SCALE,
            "use_deformable": node.USE_DEFORMABLE,
            "prior_prob": node.PRIOR_PROB,
        }

    def forward(self, features: list[Tensor]) -> FCOSOutputs:
        """
        Args:
            features: (N, C, H, W) of each level, high resolution first.
        """
        outputs = FCOSOutputs([], [], [], [])
        for level, feature in enumerate(features):
            feature = self.share_tower(feature, level)
            cls_feature, box_feature = self.cls_tower(feature, level), self.bbox_tower(feature, level)
            reg = self.bbox_pred(box_feature)
            if self.scales is not None:
                reg = self.scales[level](reg)
            outputs.logits.append(self.cls_logits(cls_feature))
            outputs.reg.append(F.relu(reg))
            outputs.ctrness.append(self.ctrness(box_feature))
            outputs.box_features.append(box_feature)
        return outputs
