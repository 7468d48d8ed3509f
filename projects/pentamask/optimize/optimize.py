"""What makes a finished model faster without changing what it computes."""

import copy
import ctypes
import sys
import types
from itertools import pairwise
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pentamask.ops import has_compiled_ops

from .layers import FusedBottleneckBlock, PackedConv2d, PackedConvTranspose2d, pack


@torch.no_grad()
def optimize_for_inference(model: nn.Module, example: Any = None, *, in_place: bool = False) -> nn.Module:
    """A model that gives the same results sooner.

    Batch norm is folded into the convolutions before it, and weights are laid out in `torch.channels_last`. On a CPU,
    1 x 1 and 3 x 3 convolutions and linear layers get packed weights beside their own, with ReLUs and residual sums as
    part of them where that can be seen (see `pentamask.ops.packed`), and the C library is told to keep memory that the
    process frees instead of giving it back to the system and asking for it again. Results differ by rounding,
    by some 1e-6 of the largest value.

    Args:
        model: any module in evaluation mode or not; Detectron2's and pentamask's models above all.
        example: an input to run the result on once, so that the first real one does not wait for what is set up then.
        in_place: change `model` itself instead of a copy.

    Returns:
        The optimised module, in evaluation mode, of the class of `model` and with its inputs and outputs. It can be
        exported, moved to a GPU and saved; it cannot be trained: `train()` raises `RuntimeError`.
    """
    if not in_place:
        model = copy.deepcopy(model)
    model.eval()
    _fold_batch_norms(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if has_compiled_ops() and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters()):
        for module in model.modules():
            pack(module)
        _fuse_activations(model)
        _keep_freed_memory()
    model.train = types.MethodType(_refuse_training, model)  # type: ignore[method-assign]
    if example is not None:
        model(example)
    return model


def _refuse_training(model: nn.Module, mode: bool = True) -> nn.Module:
    if mode:
        raise RuntimeError("This model was optimised for inference and cannot be trained: train the one it came from.")
    return nn.Module.train(model, False)


def _fold_batch_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Conv2d) and _is_fixed_norm(module.norm):
            _fold(module, module.norm)
            module.norm = None
        elif _is_plain_sequence(module):
            for (_, conv), (name, norm) in pairwise(module.named_children()):
                if type(conv) in (nn.Conv2d, Conv2d) and _does_nothing_after(conv) and _is_fixed_norm(norm):
                    _fold(conv, norm)
                    module.add_module(name, nn.Identity())


def _fold(conv: Any, norm: Any) -> None:
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)


def _is_fixed_norm(norm: Any) -> bool:
    """Whether in evaluation it is a factor and a shift for each channel."""
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    return isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) and norm.running_mean is not None and norm.affine


def _is_plain_sequence(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _does_nothing_after(conv: nn.Module) -> bool:
    return getattr(conv, "norm", None) is None and getattr(conv, "activation", None) is None


def _fuse_activations(model: nn.Module) -> None:
    for module in model.modules():
        if _is_plain_sequence(module):
            layers = [(name, layer) for name, layer in module.named_children() if type(layer) is not nn.Identity]
            for (_, conv), (name, relu) in pairwise(layers):
                if type(conv) is PackedConv2d and _does_nothing_after(conv) and type(relu) is nn.ReLU:
                    conv.relu = True
                    module.add_module(name, nn.Identity())
        elif isinstance(module, MaskRCNNConvUpsampleHead) and type(module.deconv) is PackedConvTranspose2d:
            module.deconv.relu = True  # type: ignore[assignment]
            module.deconv_relu = nn.Identity()
        elif type(module) is BottleneckBlock and _is_foldable(module):
            module.__class__ = FusedBottleneckBlock
            for layer in (module.conv1, module.conv2, module.conv3):
                if type(layer) is PackedConv2d:
                    layer.relu = True


def _is_foldable(block: Any) -> bool:
    """Whether nothing stands between the block's convolutions but ReLUs."""
    convs = (block.conv1, block.conv2, block.conv3)
    ends = type(block.conv1) is type(block.conv3) is PackedConv2d
    return ends and all(_does_nothing_after(conv) for conv in convs)


def _keep_freed_memory() -> None:
    """By default glibc gives blocks from 128 KiB on back at once, and touching new pages takes as long as computing."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
            libc.mallopt(m_mmap_threshold, 32 << 20)  # the most that it takes
            libc.mallopt(m_trim_threshold, 1 << 30)
