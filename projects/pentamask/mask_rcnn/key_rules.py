"""Detectron2's key names, which are ours, and those of ImageNet files."""

from pentamask.checkpoint.key_map import KeyRules, torchvision_resnet_renames

KEY_RULES = KeyRules(
    model="MaskRCNN",
    authors="facebookresearch/detectron2",
    signature=(r"^roi_heads\.mask_head\.",),
    renames=torchvision_resnet_renames("backbone.bottom_up."),
    # Buffers of old files.
    ignored=(r"anchor_generator\.cell_anchors\.",),
    optional=(r"^roi_heads\.box_predictor\.", r"^roi_heads\.mask_head\.predictor\."),
    # The C4 models take the last stage of the ImageNet network as their head.
    backbone=("backbone.", "roi_heads.res5."),
)
