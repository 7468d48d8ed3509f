"""Checkpoints as the authors would have released them for a model of ours: their names, container and leftovers."""

import pickle
import re
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from pentamask.panoptic_segformer.key_rules import KEY_RULES as PANOPTIC_SEGFORMER_RULES
from pentamask.yolact.key_rules import KEY_RULES as YOLACT_RULES

_BOTTOM_UP = r"^backbone\.bottom_up\."
# From our names to the authors', in this order; what is not here has the same name.
_YOLACT_NAMES = (
    (_BOTTOM_UP + r"stem\.conv1\.norm\.", "body.bn1."),
    (_BOTTOM_UP + r"stem\.conv1\.", "body.conv1."),
    *((_BOTTOM_UP + rf"res{i + 2}\.", f"body.layers.{i}.") for i in range(4)),
    (_BOTTOM_UP + r"preconv\.", "body._preconv."),
    (_BOTTOM_UP, "body."),
    (r"^(body\..*)\.conv([123])\.norm\.", r"\1.bn\2."),
    (r"^(body\..*)\.conv2_offset\.", r"\1.conv2.conv_offset_mask."),
    (r"^(body\..*)\.shortcut\.norm\.", r"\1.downsample.1."),
    (r"^(body\..*)\.shortcut\.", r"\1.downsample.0."),
    (r"^backbone\.", "fpn."),
    (r"^body\.", "backbone."),
    (r"^prediction_head\.", "prediction_layers.0."),
    (r"^mask_iou_net\.", "maskiou_net.maskiou_net."),
)
_HEAD, _TRANSFORMER = "bbox_head.", "bbox_head.transformer."
_PANOPTIC_SEGFORMER_NAMES = (
    (r"^backbone\.stem\.conv1\.norm\.", "backbone.bn1."),
    (r"^backbone\.stem\.conv1\.", "backbone.conv1."),
    (r"^(backbone\.res\d\..*)\.conv([123])\.norm\.", r"\1.bn\2."),
    (r"^(backbone\.res\d\..*)\.shortcut\.norm\.", r"\1.downsample.1."),
    (r"^(backbone\.res\d\..*)\.shortcut\.", r"\1.downsample.0."),
    *((rf"^backbone\.res{i + 1}\.", f"backbone.layer{i}.") for i in range(1, 5)),
    (r"^encoder\.neck\.extra_conv\.", "encoder.neck.extra_convs.0."),
    (r"^encoder\.neck\.(.*)\.norm\.", r"neck.\1.gn."),
    (r"^encoder\.neck\.(.*)\.weight$", r"neck.\1.conv.weight"),
    (r"^encoder\.(layers\.\d+)\.self_attn\.", rf"{_TRANSFORMER}encoder.\1.attentions.0."),
    (r"^encoder\.layers\.", f"{_TRANSFORMER}encoder.layers."),
    (r"^encoder\.level_embeds$", f"{_TRANSFORMER}level_embeds"),
    (r"^location_decoder\.(layers\.\d+)\.self_attn\.", rf"{_TRANSFORMER}decoder.\1.attentions.0.attn."),
    (r"^location_decoder\.(layers\.\d+)\.cross_attn\.", rf"{_TRANSFORMER}decoder.\1.attentions.1."),
    (r"^location_decoder\.layers\.", f"{_TRANSFORMER}decoder.layers."),
    (r"^location_decoder\.reference_points\.", f"{_TRANSFORMER}reference_points."),
    (r"^location_decoder\.", _HEAD),
    (r"\.ffn\.linear1\.", ".ffns.0.layers.0.0."),
    (r"\.ffn\.linear2\.", ".ffns.0.layers.1."),
    *((rf"^({_TRANSFORMER}.*)\.norm{i + 1}\.", rf"\1.norms.{i}.") for i in range(3)),
    (r"^thing_mask_decoder\.", f"{_HEAD}mask_head."),
    (r"^stuff_mask_decoder\.", f"{_HEAD}mask_head2."),
    (r"^(stuff_query|cls_stuff_branches)\.", rf"{_HEAD}\1."),
    (r"\.tail\.", ".attnen."),
    *((rf"\.level_linears\.{i}\.", f".linear_l{i + 1}.0.") for i in range(3)),
    (r"\.linear\.", ".linear.0."),
)
_NAMES = {
    "YOLACT": (_YOLACT_NAMES, YOLACT_RULES),
    "PanopticSegFormer": (_PANOPTIC_SEGFORMER_NAMES, PANOPTIC_SEGFORMER_RULES),
}


def authors_name(architecture: str, name: str) -> str:
    """The authors' name for our `name`, which the plugin's rules must turn back."""
    if architecture not in _NAMES:  # AdelaiDet, centermask2 and Detectron2 have our names
        return name
    patterns, rules = _NAMES[architecture]
    theirs = name
    for pattern, replacement in patterns:
        theirs = re.sub(pattern, replacement, theirs)
    assert rules.rename(theirs) == name, f"{name} -> {theirs} -> {rules.rename(theirs)}"
    return theirs


def write_authors_file(model: nn.Module, folder: Path) -> str:
    """Write a model's weights as its authors would; returns the file's path."""
    architecture = type(model).__name__
    weights = {authors_name(architecture, name): value for name, value in model.state_dict().items()}
    writer = {"YOLACT": _write_yolact, "PanopticSegFormer": _write_panoptic_segformer, "MaskRCNN": _write_detectron2}
    path = folder / ("model_final.pkl" if architecture == "MaskRCNN" else "released.pth")
    writer.get(architecture, _write_detectron2_training)(weights, path)
    return str(path)


def _write_yolact(weights: dict[str, Tensor], path: Path) -> None:
    leftovers = {"fpn.downsample_layers.2.weight": torch.zeros(1), "backbone.layer1.0.conv1.weight": torch.zeros(1)}
    torch.save(OrderedDict(weights | leftovers), path, _use_new_zipfile_serialization=False)


def _write_panoptic_segformer(weights: dict[str, Tensor], path: Path) -> None:
    weights = weights | {"bbox_head.cls_branches2.0.weight": torch.zeros(1)}
    meta = {"mmcv_version": "1.3.4", "CLASSES": ("person", "sky"), "epoch": 24}
    torch.save({"meta": meta, "state_dict": weights, "optimizer": {"state": {}}}, path)


def _write_detectron2(weights: dict[str, Tensor], path: Path) -> None:
    arrays = {name: value.numpy() for name, value in weights.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))


def _write_detectron2_training(weights: dict[str, Tensor], path: Path) -> None:
    old = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    torch.save({"model": weights | old, "iteration": 89999, "optimizer": {"state": {}}}, path)
