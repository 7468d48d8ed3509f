"""The models of configs/shapes/ with fixed random weights that find something, for tests of tracing and export."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn

from pentamask.data.shape_scenes import draw_scene
from pentamask.engine.load_config import find_config_file, load_config

THIN_MODELS = (
    "BlendMask_R_50_thin",
    "CenterMask_Lite_R_50_thin",
    "YOLACT_R_50_thin",
    "MaskRCNN_R_50_thin",
    "PanopticSegFormer_R_50_thin",
)
_SHALLOW = ["MODEL.RESNETS.DEPTH", 18]
_ONE_LAYER = [
    word
    for part in ("ENCODER_LAYERS", "DECODER_LAYERS", "THING_BLOCKS", "STUFF_BLOCKS")
    for word in (f"MODEL.PANOPTIC_SEGFORMER.NUM_{part}", 1)
]
# Overrides that leave out layers, each of which costs time in an export.
FEWER_LAYERS = {name: _SHALLOW + (_ONE_LAYER if name.startswith("Panoptic") else []) for name in THIN_MODELS}


def _maps(*names: str, keys: tuple[str, ...]) -> list[object]:
    return [word for key in keys for word in (key, list(names))]


_SEMANTIC = ["MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4]
_ONE_MAP = [
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.ANCHOR_GENERATOR.SIZES", [[24, 48, 80]]),
]
_ONE_MAP_KEYS = ("MODEL.RESNETS.OUT_FEATURES", "MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES")
_DEFORMABLE_TOWERS = [
    *("MODEL.FCOS.USE_DEFORMABLE", True, "MODEL.FCOS.NUM_CLS_CONVS", 1, "MODEL.FCOS.NUM_BOX_CONVS", 1),
]
# Other models and parts: base and overrides.
VARIANTS = {
    "FCOS with DCN": (
        "BlendMask_R_50_thin",
        [*_SHALLOW, "MODEL.META_ARCHITECTURE", "OneStageDetector", *_DEFORMABLE_TOWERS],
    ),
    "panoptic BlendMask": (
        "BlendMask_R_50_thin",
        [
            *_SHALLOW,
            *("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", True, *_SEMANTIC),
            *_maps("p3", "p4", keys=("MODEL.SEM_SEG_HEAD.IN_FEATURES",)),
        ],
    ),
    "panoptic CenterMask with VoVNet": (
        "CenterMask_Lite_R_50_thin",
        [
            *("MODEL.META_ARCHITECTURE", "PanopticCenterMask", *_SEMANTIC),
            *("MODEL.BACKBONE.NAME", "build_vovnet_fpn_p6p7_backbone"),
            *("MODEL.VOVNET.CONV_BODY", "V-19-slim-eSE", "MODEL.VOVNET.NORM", "BN"),
            *_maps("stage2", "stage3", "stage4", "stage5", keys=("MODEL.VOVNET.OUT_FEATURES", "MODEL.FPN.IN_FEATURES")),
            *_maps("p2", "p3", "p4", keys=("MODEL.SEM_SEG_HEAD.IN_FEATURES",)),
        ],
    ),
    "YOLACT with mask scores and greedy NMS": (
        "YOLACT_R_50_thin",
        [
            *(*_SHALLOW, "MODEL.YOLACT.MASK_IOU.ENABLED", True, "MODEL.YOLACT.IMAGE_SIZE", 256),
            *("MODEL.YOLACT.NMS_TYPE", "batched"),
        ],
    ),
    "YOLACT with cross-class NMS": ("YOLACT_R_50_thin", [*_SHALLOW, "MODEL.YOLACT.NMS_TYPE", "cross_class"]),
    "CenterMask without mask scores": ("CenterMask_Lite_R_50_thin", [*_SHALLOW, "MODEL.MASKIOU_ON", False]),
    "Mask R-CNN C4": (
        "MaskRCNN_R_50_thin",
        [
            *(*_SHALLOW, *_ONE_MAP, *_maps("res4", keys=_ONE_MAP_KEYS)),
            *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
        ],
    ),
    "Mask R-CNN DC5": (
        "MaskRCNN_R_50_thin",
        ["MODEL.RESNETS.RES5_DILATION", 2, *_ONE_MAP, *_maps("res5", keys=_ONE_MAP_KEYS)],
    ),
}


def build_variant(name: str) -> tuple[CfgNode, nn.Module]:
    """As `build_thin`, of VARIANTS or THIN_MODELS with fewer layers."""
    base, overrides = VARIANTS.get(name, (name, FEWER_LAYERS.get(name, [])))
    return build_thin(base, *overrides)


# Layers, by the end of their names, whose weights are multiplied, so that scores and masks are not all alike.
_FACTORS = {
    "fcos_head.cls_logits": 25.0,
    "fcos_head.bbox_pred": 10.0,
    "top_layer": 40.0,
    "conf_layer": 0.5,
    "bbox_layer": 0.2,
    "rpn_head.objectness_logits": 10.0,
    "rpn_head.anchor_deltas": 10.0,
    "box_predictor.cls_score": 12.0,
    "box_predictor.bbox_pred": 5.0,
    "mask_head.predictor": 100.0,
    "location_decoder.cls_branches.2": 10.0,
    "tail.linear": 8.0,
}


def scenes(count: int, seed: int = 0) -> list[torch.Tensor]:
    """Pictures of the shapes data, uint8 (3, H, W) of several sizes."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(draw_scene(rng).image.transpose(2, 0, 1).copy()) for _ in range(count)]


def build_thin(name: str, *overrides: object) -> tuple[CfgNode, nn.Module]:
    """Config and model, in evaluation mode, of configs/shapes/NAME.yaml or of the model zoo, with overrides.

    Batch norm has the statistics of a picture.
    """
    path = name if "/" in name else f"shapes/{name}.yaml"
    options = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *(str(word) for word in overrides)]
    cfg = load_config(find_config_file(path), options)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    spread(model)
    return cfg, model


@torch.no_grad()
def spread(model: nn.Module) -> None:
    """Give batch norm the statistics of a picture, and scores and masks some variety."""
    norms = [x for x in model.modules() if isinstance(x, (nn.BatchNorm2d, FrozenBatchNorm2d))]
    hooks = [norm.register_forward_pre_hook(_take_statistics) for norm in norms]
    model([{"image": scenes(1, seed=1)[0]}])
    for hook in hooks:
        hook.remove()
    for layer, module in model.named_modules():
        factor = next((f for end, f in _FACTORS.items() if layer.endswith(end)), None)
        if factor is not None:
            module.weight.mul_(factor)


def _take_statistics(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    (x,) = inputs
    if x.numel():
        norm.running_mean.copy_(x.mean(dim=(0, 2, 3)))
        norm.running_var.copy_(x.var(dim=(0, 2, 3), unbiased=False))
