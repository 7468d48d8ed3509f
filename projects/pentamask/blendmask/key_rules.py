"""The authors' key names (AdelaiDet's released files)."""

from pentamask.checkpoint.key_map import KeyRules
from pentamask.fcos.key_rules import FCOS_CLASS_KEYS, FCOS_RENAMES, FCOS_SIGNATURE

SEM_SEG_KEYS = r"^basis_module\.seg_head\."

KEY_RULES = KeyRules(
    model="BlendMask",
    authors="aim-uofa/AdelaiDet",
    signature=(FCOS_SIGNATURE, r"^basis_module\."),
    renames=FCOS_RENAMES,
    # The auxiliary head is in every released file, and only training needs it.
    ignored=(SEM_SEG_KEYS,),
    optional=(SEM_SEG_KEYS, FCOS_CLASS_KEYS, r"^panoptic_module\.predictor\."),
)
