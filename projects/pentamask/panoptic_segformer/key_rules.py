"""The authors' key names: of the released files, and of the code after a renaming (Panoptic-SegFormer)."""

from pentamask.checkpoint.key_map import KeyRules, torchvision_resnet_renames

_ENCODER, _DECODER = r"^(encoder\.layers\.\d+)\.", r"^(location_decoder\.layers\.\d+)\."

_RENAMES = (
    (r"^module\.", ""),
    # Files of a backbone alone: torchvision's ResNet, PVTv2, Swin.
    (r"^(conv1|bn1|layer[1-4]|layers|patch_embed[1-4]?|block[1-4]|norm[1-4])\.", r"backbone.\1."),
    # ResNet, from torchvision's names to Detectron2's.
    *torchvision_resnet_renames("backbone."),
    # Neck.
    (r"^neck\.extra_convs\.0\.", "neck.extra_conv."),
    (r"^neck\.", "encoder.neck."),
    (r"^(encoder\.neck\..*)\.conv\.weight$", r"\1.weight"),
    (r"^(encoder\.neck\..*)\.gn\.", r"\1.norm."),
    # Encoder and location decoder.
    (r"^bbox_head\.transformer\.(encoder\.|level_embeds$)", r"encoder.\1"),
    (r"^encoder\.encoder\.", "encoder."),
    (r"^bbox_head\.transformer\.decoder\.", "location_decoder."),
    (r"^bbox_head\.transformer\.reference_points\.", "location_decoder.reference_points."),
    (r"^bbox_head\.(query_embedding|cls_branches|reg_branches)\.", r"location_decoder.\1."),
    (r"\.ffns\.0\.layers\.0\.0\.", ".ffn.linear1."),
    (r"\.ffns\.0\.layers\.1\.", ".ffn.linear2."),
    (_ENCODER + r"attentions\.0\.", r"\1.self_attn."),
    (_DECODER + r"attentions\.0\.attn\.", r"\1.self_attn."),
    (_DECODER + r"attentions\.1\.", r"\1.cross_attn."),
    *((rf"\.norms\.{i}\.", f".norm{i + 1}.") for i in range(3)),
    # Mask decoders.
    (r"^bbox_head\.(?:things_mask_head|mask_head)\.", "thing_mask_decoder."),
    (r"^bbox_head\.(?:stuff_mask_head|mask_head2)\.", "stuff_mask_decoder."),
    (r"^bbox_head\.(stuff_query|cls_stuff_branches)\.", r"\1."),
    (r"\.attnen\.", ".tail."),
    *((rf"\.linear_l{i + 1}\.0\.", f".level_linears.{i}.") for i in range(3)),
    (r"\.linear\.0\.", ".linear."),
)

# Branches that no output depends on, and that the released code trains with weight 0.
UNUSED = r"^bbox_head\.(cls_thing_branches|cls_branches2|reg_branches2)\."

KEY_RULES = KeyRules(
    model="PanopticSegFormer",
    authors="zhiqi-li/Panoptic-SegFormer",
    signature=(r"^location_decoder\.",),
    renames=_RENAMES,
    ignored=(UNUSED, r"\.attn_mask$"),
    # Sized by the number of classes.
    optional=(r"^location_decoder\.cls_branches\.", r"^stuff_query\.", r"^cls_stuff_branches\."),
    backbone="backbone.",
)
