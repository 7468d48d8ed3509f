"""The authors' key names."""

from pentamask.checkpoint.key_map import KeyRules, torchvision_resnet_renames

# Files of the first FCOS repository, which was built on maskrcnn-benchmark, and early names of AdelaiDet.
FCOS_RENAMES = (
    (r"^module\.", ""),
    (r"^backbone\.body\.", "backbone.bottom_up."),
    *torchvision_resnet_renames("backbone.bottom_up."),
    *((rf"^backbone\.fpn\.fpn_inner{i}\.", f"backbone.fpn_lateral{i + 1}.") for i in range(2, 5)),
    *((rf"^backbone\.fpn\.fpn_layer{i}\.", f"backbone.fpn_output{i + 1}.") for i in range(2, 5)),
    (r"^backbone\.fpn\.top_blocks\.", "backbone.top_block."),
    (r"^rpn\.head\.", "proposal_generator.fcos_head."),
    (r"\.centerness\.", ".ctrness."),
)
FCOS_CLASS_KEYS = r"^proposal_generator\.fcos_head\.cls_logits\."
FCOS_SIGNATURE = r"^proposal_generator\.fcos_head\."

FCOS_KEY_RULES = KeyRules(
    model="OneStageDetector (FCOS)",
    authors="aim-uofa/AdelaiDet",
    signature=(FCOS_SIGNATURE,),
    renames=FCOS_RENAMES,
    optional=(FCOS_CLASS_KEYS,),
)
