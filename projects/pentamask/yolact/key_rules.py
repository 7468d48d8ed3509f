"""The authors' key names (files of dbolya/yolact, and the ImageNet files they start from)."""

from pentamask.checkpoint.key_map import KeyRules, torchvision_resnet_renames

_BOTTOM_UP = "backbone.bottom_up."
_RES = _BOTTOM_UP + "res"

_RESNET_RENAMES = (
    (r"^(backbone\.)?conv1\.", f"{_BOTTOM_UP}stem.conv1."),
    (r"^(backbone\.)?bn1\.", f"{_BOTTOM_UP}stem.conv1.norm."),
    *((rf"^backbone\.layers\.{i}\.", f"{_RES}{i + 2}.") for i in range(4)),
    *torchvision_resnet_renames(_BOTTOM_UP),
    (rf"^({_RES}\d\.\d+)\.conv2\.conv_offset_mask\.", r"\1.conv2_offset."),
)
_DARKNET_RENAMES = (
    (r"^(?:backbone\.)?_preconv\.", f"{_BOTTOM_UP}preconv."),
    (r"^(?:backbone\.)?layers\.(\d)\.(0|\d+\.conv[12])\.([01])\.", rf"{_BOTTOM_UP}layers.\1.\2.\3."),
)

KEY_RULES = KeyRules(
    model="YOLACT",
    authors="dbolya/yolact",
    signature=(r"^prediction_head\.",),
    renames=(
        # Before ResNet's, which would take the stages of a Darknet for their own.
        *_DARKNET_RENAMES,
        *_RESNET_RENAMES,
        (r"^fpn\.", "backbone."),
        (r"^prediction_layers\.0\.", "prediction_head."),
        (r"^maskiou_net\.maskiou_net\.", "mask_iou_net."),
    ),
    # An unused third extra level, and older duplicates of the stages.
    ignored=(r"^backbone\.downsample_layers\.[2-9]\.", r"^backbone\.layer\d"),
    optional=(r"^prediction_head\.conf_layer\.", r"^semantic_seg_conv\.", r"^mask_iou_net\.10\."),
)
