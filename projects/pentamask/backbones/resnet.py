"""Detectron2's ResNet with deformable blocks that run on every device, optionally in every n-th block only."""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet, build_resnet_backbone
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from pentamask.ops.deform_conv import modulated_deform_conv


class DeformBottleneckBlock(CNNBlockBase):
    """A bottleneck whose 3x3 convolution is deformable, with the parameter names of Detectron2's class of this name.

    That class needs Detectron2's compiled extension and has no CPU path; this one uses torchvision's op.
    """

    def __init__(self, block: BottleneckBlock, *, modulated: bool, deform_groups: int, bias: bool) -> None:
        """
        Args:
            block: the plain block whose layers become this block's.
            modulated: Deformable ConvNets v2 (offsets and modulation) instead of v1 (offsets).
            deform_groups: groups of channels with offsets of their own.
            bias: give the deformable convolution a bias, although a norm follows.
        """
        super().__init__(block.in_channels, block.out_channels, block.stride)
        self.conv1, self.conv2, self.conv3, self.shortcut = block.conv1, block.conv2, block.conv3, block.shortcut
        self.conv2_offset = Conv2d(
            self.conv2.in_channels,
            (27 if modulated else 18) * deform_groups,
            kernel_size=3,
            stride=self.conv2.stride,
            padding=self.conv2.padding,
            dilation=self.conv2.dilation,
        )
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)
        if bias:
            self.conv2.bias = nn.Parameter(torch.zeros(self.conv2.out_channels))
        self.modulated = modulated

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        conv2 = self.conv2
        out = F.relu_(self.conv1(x))
        op = modulated_deform_conv if self.modulated else deform_conv2d
        out = op(out, self.conv2_offset(out), conv2.weight, conv2.bias, conv2.stride, conv2.padding, conv2.dilation)
        if conv2.norm is not None:
            out = conv2.norm(out)
        out = self.conv3(F.relu_(out))
        return F.relu_(out + (self.shortcut(x) if self.shortcut is not None else x))


def build_deformable_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Detectron2's ResNet; its `RESNETS.DEFORM_*` keys, and DEFORM_INTERVAL, give `DeformBottleneckBlock`s."""
    node = cfg.MODEL.RESNETS
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * 4
    resnet = build_resnet_backbone(plain, input_shape)
    if not any(node.DEFORM_ON_PER_STAGE):
        return resnet
    if node.DEPTH < 50:
        raise ValueError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE needs bottleneck blocks, MODEL.RESNETS.DEPTH {node.DEPTH} has none."
        )
    for number, (stage, deformable) in enumerate(zip(resnet.stages, node.DEFORM_ON_PER_STAGE), start=2):
        for i in range(0, len(stage) if deformable else 0, node.DEFORM_INTERVAL):
            stage[i] = DeformBottleneckBlock(
                stage[i],
                modulated=node.DEFORM_MODULATED,
                deform_groups=node.DEFORM_NUM_GROUPS,
                bias=node.DEFORM_BIAS,
            )
            if number <= cfg.MODEL.BACKBONE.FREEZE_AT:
                stage[i].freeze()
    return resnet
