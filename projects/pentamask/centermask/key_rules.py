"""The authors' key names (centermask2's released files, and ImageNet files of its bodies)."""

from pentamask.checkpoint.key_map import KeyRules
from pentamask.fcos.key_rules import FCOS_CLASS_KEYS, FCOS_RENAMES, FCOS_SIGNATURE

KEY_RULES = KeyRules(
    model="CenterMask",
    authors="youngwanLEE/centermask2",
    signature=(FCOS_SIGNATURE, r"^roi_heads\.mask_head\.spatialAtt\."),
    renames=FCOS_RENAMES,
    optional=(
        FCOS_CLASS_KEYS,
        r"^roi_heads\.mask_head\.predictor\.",
        r"^roi_heads\.maskiou_head\.maskiou\.",
        r"^sem_seg_head\.predictor\.",
    ),
)
