"""The authors' key names."""

from pentamask.checkpoint.key_map import KeyRules

# Only there: DLA's blocks have a bn1 of their own.
_RESNET = r"^(backbone\.bottom_up\.(?:stem|res\d\.\d+))"

# Files of the first FCOS repository, which was built on maskrcnn-benchmark, and early names of AdelaiDet.
FCOS_RENAMES = (
    (r"^module\.", ""),
    (r"^backbone\.body\.", "backbone.bottom_up."),
    *((rf"^backbone\.bottom_up\.layer{i}\.", f"backbone.bottom_up.res{i + 1}.") for i in range(1, 5)),
    (_RESNET + r"\.downsample\.0\.", r"\1.shortcut."),
    (_RESNET + r"\.downsample\.1\.", r"\1.shortcut.norm."),
    (_RESNET + r"\.bn([123])\.", r"\1.conv\2.norm."),
    *((rf"^backbone\.fpn\.fpn_inner{i}\.", f"backbone.fpn_lateral{i + 1}.") for i in range(2, 5)),
    *((rf"^backbone\.fpn\.fpn_layer{i}\.", f"backbone.fpn_output{i + 1}.") for i in range(2, 5)),
    (r"^backbone\.fpn\.top_blocks\.", "backbone.top_block."),
    (r"^rpn\.head\.", "proposal_generator.fcos_head."),
    (r"\.centerness\.", ".ctrness."),
)
FCOS_CLASS_KEYS = r"^proposal_generator\.fcos_head\.cls_logits\."

FCOS_KEY_RULES = KeyRules(model="OneStageDetector (FCOS)", renames=FCOS_RENAMES, optional=(FCOS_CLASS_KEYS,))
