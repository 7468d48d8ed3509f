"""VoVNetV2 (CenterMask, arXiv 1911.06667), as in the released CenterMask and FCOS models.

The names of layers, slashes included, are those of the released files.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from pentamask.common import check_choice
from pentamask.ops.deform_conv import modulated_deform_conv

Layers = list[tuple[str, nn.Module]]


@dataclass(frozen=True)
class VoVNetSpec:
    """Sizes of a body.

    Attributes:
        stem: channels of the three stem layers.
        conv_channels: of the 3x3 layers in stages 2 to 5.
        out_channels: of stages 2 to 5.
        num_layers: 3x3 layers of a block.
        num_blocks: blocks of stages 2 to 5.
        depthwise: the 3x3 layers, but the first of the stem, are depthwise separable.
    """

    stem: tuple[int, int, int] = (64, 64, 128)
    conv_channels: tuple[int, int, int, int] = (128, 160, 192, 224)
    out_channels: tuple[int, int, int, int] = (256, 512, 768, 1024)
    num_layers: int = 5
    num_blocks: tuple[int, int, int, int] = (1, 1, 1, 1)
    depthwise: bool = False


_SLIM: dict[str, Any] = {"conv_channels": (64, 80, 96, 112), "out_channels": (112, 256, 384, 512)}
SPECS = {
    "V-19-slim-dw-eSE": VoVNetSpec(stem=(64, 64, 64), num_layers=3, depthwise=True, **_SLIM),
    "V-19-dw-eSE": VoVNetSpec(stem=(64, 64, 64), num_layers=3, depthwise=True),
    "V-19-slim-eSE": VoVNetSpec(num_layers=3, **_SLIM),
    "V-19-eSE": VoVNetSpec(num_layers=3),
    "V-39-eSE": VoVNetSpec(num_blocks=(1, 1, 2, 2)),
    "V-57-eSE": VoVNetSpec(num_blocks=(1, 1, 4, 3)),
    "V-99-eSE": VoVNetSpec(num_blocks=(1, 3, 9, 3)),
}


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )


def conv_unit(
    name: str, in_channels: int, out_channels: int, norm: str, kernel_size: int = 3, stride: int = 1
) -> Layers:
    """Convolution, norm, ReLU."""
    return [
        (f"{name}/conv", _conv(in_channels, out_channels, kernel_size, stride)),
        (f"{name}/norm", get_norm(norm, out_channels)),
        (f"{name}/relu", nn.ReLU(inplace=True)),
    ]


def depthwise_unit(name: str, in_channels: int, out_channels: int, norm: str, stride: int = 1) -> Layers:
    """3x3 convolution per channel, 1x1 convolution, norm, ReLU."""
    return [
        (f"{name}/dw_conv3x3", _conv(in_channels, in_channels, 3, stride, groups=in_channels)),
        (f"{name}/pw_conv1x1", _conv(in_channels, out_channels, 1)),
        (f"{name}/pw_norm", get_norm(norm, out_channels)),
        (f"{name}/pw_relu", nn.ReLU(inplace=True)),
    ]


def _sequential(layers: Layers) -> nn.Sequential:
    module = nn.Sequential()
    for name, layer in layers:
        module.add_module(name, layer)
    return module


@dataclass(frozen=True)
class DeformableSpec:
    """What kind of deformable convolution: v2 (`modulated`) or v1, with `groups` sets of offsets."""

    modulated: bool = True
    groups: int = 1


class DeformableUnit(nn.Module):
    """3x3 deformable convolution that predicts its own offsets, norm, ReLU."""

    def __init__(self, name: str, in_channels: int, out_channels: int, norm: str, spec: DeformableSpec) -> None:
        super().__init__()
        offset = nn.Conv2d(in_channels, (27 if spec.modulated else 18) * spec.groups, 3, padding=1)
        nn.init.zeros_(offset.weight)
        nn.init.zeros_(offset.bias)  # type: ignore[arg-type]  # it has one
        self.name = name
        self.op = modulated_deform_conv if spec.modulated else deform_conv2d
        self.add_module(f"{name}/conv_offset", offset)
        self.add_module(f"{name}/conv", _conv(in_channels, out_channels, 3))
        self.add_module(f"{name}/norm", get_norm(norm, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        offset, norm = (self.get_submodule(f"{self.name}/{part}") for part in ("conv_offset", "norm"))
        weight = self.get_parameter(f"{self.name}/conv.weight")
        return F.relu_(norm(self.op(x, offset(x), weight, None, 1, 1, 1)))


class EffectiveSE(nn.Module):
    """Channel attention without dimension reduction, eSE (section "VoVNetV2 backbone"; as released, with a hard
    sigmoid)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x * F.hardsigmoid(self.fc(x.mean(dim=(2, 3), keepdim=True)))


class OSABlock(nn.Module):
    """One-shot aggregation: a chain of 3x3 layers, all of whose outputs are joined once, and eSE."""

    def __init__(
        self,
        name: str,
        in_channels: int,
        conv_channels: int,
        out_channels: int,
        num_layers: int,
        norm: str,
        *,
        identity: bool = False,
        depthwise: bool = False,
        deformable: DeformableSpec | None = None,
    ) -> None:
        """
        Args:
            name: prefix of the layers' names.
            in_channels, conv_channels, out_channels: of the input, the 3x3 layers and the output.
            num_layers: 3x3 layers.
            norm: of all layers.
            identity: add the input to the output.
            depthwise: depthwise separable 3x3 layers, after a reduction to `conv_channels` where the input differs.
            deformable: make the 3x3 layers of a block that is not depthwise deformable.
        """
        super().__init__()
        self.identity = identity
        self.conv_reduction: nn.Module = nn.Identity()
        channels = in_channels
        if depthwise and in_channels != conv_channels:
            unit = conv_unit(f"{name}_reduction_0", in_channels, conv_channels, norm, kernel_size=1)
            self.conv_reduction = _sequential(unit)
            channels = conv_channels
        self.layers = nn.ModuleList()
        layer: nn.Module
        for i in range(num_layers):
            if depthwise:
                layer = _sequential(depthwise_unit(f"{name}_{i}", channels, conv_channels, norm))
            elif deformable is not None:
                layer = DeformableUnit(f"{name}_{i}", channels, conv_channels, norm, deformable)
            else:
                layer = _sequential(conv_unit(f"{name}_{i}", channels, conv_channels, norm))
            self.layers.append(layer)
            channels = conv_channels
        joined = in_channels + num_layers * conv_channels
        self.concat = _sequential(conv_unit(f"{name}_concat", joined, out_channels, norm, kernel_size=1))
        self.ese = EffectiveSE(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        features = [x]
        out = self.conv_reduction(x)
        for layer in self.layers:
            out = layer(out)
            features.append(out)
        out = self.ese(self.concat(torch.cat(features, dim=1)))
        return out + x if self.identity else out


class VoVNet(Backbone):
    """Stem and stages 2 to 5 of strides 4, 4, 8, 16 and 32."""

    def __init__(
        self,
        spec: VoVNetSpec,
        in_channels: int,
        norm: str,
        out_features: list[str],
        deformable: dict[int, DeformableSpec] | None = None,
    ) -> None:
        """
        Args:
            spec: sizes of the body.
            in_channels: of the image.
            norm: of all layers.
            out_features: the names to return, of "stem", "stage2" ... "stage5".
            deformable: kind of deformable convolution, by number of the stage.

        Raises:
            ValueError: an unknown feature, or deformable layers in a depthwise body.
        """
        super().__init__()
        self._out_feature_channels = dict(
            zip(("stem", *(f"stage{i}" for i in range(2, 6))), (spec.stem[2], *spec.out_channels))
        )
        self._out_feature_strides = {"stem": 4, **{f"stage{i}": 2**i for i in range(2, 6)}}
        unknown = set(out_features) - set(self._out_feature_channels)
        if unknown:
            known = ", ".join(self._out_feature_channels)
            raise ValueError(f"MODEL.VOVNET.OUT_FEATURES names {sorted(unknown)}; VoVNet has {known}.")
        if spec.depthwise and deformable:
            raise ValueError("MODEL.VOVNET.STAGE_WITH_DCN: a depthwise VoVNet has no deformable stages.")
        self._out_features = list(out_features)
        self.stem = self._stem(spec, in_channels, norm)
        channels = spec.stem[2]
        for stage in range(2, 6):
            self.add_module(f"stage{stage}", self._stage(spec, stage, channels, norm, (deformable or {}).get(stage)))
            channels = spec.out_channels[stage - 2]

    @staticmethod
    def _stem(spec: VoVNetSpec, in_channels: int, norm: str) -> nn.Sequential:
        unit = depthwise_unit if spec.depthwise else conv_unit
        return _sequential(
            conv_unit("stem_1", in_channels, spec.stem[0], norm, stride=2)
            + unit("stem_2", spec.stem[0], spec.stem[1], norm)
            + unit("stem_3", spec.stem[1], spec.stem[2], norm, stride=2)
        )

    @staticmethod
    def _stage(
        spec: VoVNetSpec, stage: int, in_channels: int, norm: str, deformable: DeformableSpec | None
    ) -> nn.Sequential:
        layers: Layers = []
        if stage > 2:
            layers.append(("Pooling", nn.MaxPool2d(3, 2, ceil_mode=True)))
        out_channels = spec.out_channels[stage - 2]
        for i in range(spec.num_blocks[stage - 2]):
            name = f"OSA{stage}_{i + 1}"
            block = OSABlock(
                name,
                in_channels if i == 0 else out_channels,
                spec.conv_channels[stage - 2],
                out_channels,
                spec.num_layers,
                norm,
                identity=i > 0,
                depthwise=spec.depthwise,
                deformable=deformable,
            )
            layers.append((name, block))
        return _sequential(layers)

    def freeze(self, freeze_at: int) -> None:
        """Freeze the first `freeze_at` of stem, stage2, ... and, from 0 on, the weights of all batch norms."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and freeze_at >= 0:
                module.requires_grad_(False)
        for name in list(self._out_feature_channels)[: max(freeze_at, 0)]:
            self.get_submodule(name).requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) image, H and W multiples of 32 -> name -> (N, C_l, H / stride, W / stride)."""
        outputs = {}
        for name in self._out_feature_channels:
            x = self.get_submodule(name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs


def build_vovnet(cfg: CfgNode, input_shape: ShapeSpec) -> VoVNet:
    """The body `MODEL.VOVNET.CONV_BODY`, frozen as `MODEL.BACKBONE.FREEZE_AT` says."""
    node = cfg.MODEL.VOVNET
    check_choice("MODEL.VOVNET.CONV_BODY", node.CONV_BODY, SPECS)
    kind = DeformableSpec(modulated=node.WITH_MODULATED_DCN, groups=node.DEFORMABLE_GROUPS)
    deformable = {stage: kind for stage, wanted in enumerate(node.STAGE_WITH_DCN, start=2) if wanted}
    backbone = VoVNet(SPECS[node.CONV_BODY], input_shape.channels, node.NORM, node.OUT_FEATURES, deformable)
    backbone.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    return backbone
