"""The authors' files: both spellings, their container, backbones alone, and refusal of anything else."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.panoptic_segformer.key_rules import KEY_RULES

# Our name, beginning; the released files' and the current code's.
AUTHORS = (
    ("encoder.neck.extra_conv.norm.", ("neck.extra_convs.0.gn.",)),
    ("encoder.neck.convs.1.weight", ("neck.convs.1.conv.weight",)),
    ("encoder.level_embeds", ("bbox_head.transformer.level_embeds",)),
    ("encoder.layers.0.self_attn.", ("bbox_head.transformer.encoder.layers.0.attentions.0.",)),
    ("location_decoder.layers.1.self_attn.", ("bbox_head.transformer.decoder.layers.1.attentions.0.attn.",)),
    ("location_decoder.layers.1.cross_attn.", ("bbox_head.transformer.decoder.layers.1.attentions.1.",)),
    ("location_decoder.layers.1.ffn.linear1.", ("bbox_head.transformer.decoder.layers.1.ffns.0.layers.0.0.",)),
    ("location_decoder.layers.1.norm3.", ("bbox_head.transformer.decoder.layers.1.norms.2.",)),
    ("location_decoder.reg_branches.0.4.", ("bbox_head.reg_branches.0.4.",)),
    (
        "thing_mask_decoder.tail.linear.",
        ("bbox_head.mask_head.attnen.linear.0.", "bbox_head.things_mask_head.attnen.linear.0."),
    ),
    ("thing_mask_decoder.blocks.0.attn.level_linears.2.", ("bbox_head.mask_head.blocks.0.attn.linear_l3.0.",)),
    (
        "stuff_mask_decoder.blocks.1.norm3.",
        ("bbox_head.mask_head2.blocks.1.norm3.", "bbox_head.stuff_mask_head.blocks.1.norm3."),
    ),
    ("backbone.res3.0.shortcut.norm.", ("backbone.layer2.0.downsample.1.", "layer2.0.downsample.1.")),
    ("backbone.res3.0.conv2.norm.", ("backbone.layer2.0.bn2.", "layer2.0.bn2.")),
    ("backbone.stem.conv1.norm.", ("backbone.bn1.", "bn1.")),
)


@pytest.mark.parametrize("ours, authors", AUTHORS)
def test_renames(ours, authors):
    assert {KEY_RULES.rename(name) for name in authors} == {ours}
    assert KEY_RULES.rename(ours) == ours


@pytest.fixture
def model(tiny_cfg):
    return build_model(tiny_cfg)


def save(model, path, **edits):
    """A file as the authors' trainer writes it, with one renamed part."""
    weights = {}
    for name, value in model.state_dict().items():
        name = name.replace("thing_mask_decoder.", "bbox_head.mask_head.").replace(".tail.", ".attnen.")
        weights["module." + name] = torch.full_like(value, 0.5)
    weights["module.bbox_head.cls_branches2.0.weight"] = torch.zeros(3, 32)  # unused
    weights |= edits
    meta = {"mmcv_version": "1.3.4", "CLASSES": ("person", "sky"), "epoch": 24}
    optimizer = {"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1.4e-4, "params": [0]}]}
    torch.save({"meta": meta, "state_dict": weights, "optimizer": optimizer}, path)
    return str(path)


def test_released_file(model, tmp_path):
    PentamaskCheckpointer(model).load(save(model, tmp_path / "released.pth"))
    floating = [value for value in model.state_dict().values() if value.is_floating_point()]
    assert all((value == 0.5).all() for value in floating)


def test_other_entries_are_refused(model, tmp_path):
    path = save(model, tmp_path / "other.pth", **{"bbox_head.enc_output.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="does not belong to the PanopticSegFormer.*bbox_head.enc_output.weight"):
        PentamaskCheckpointer(model).load(path)


def test_plain_detectron2_refuses_the_container(model, tmp_path):
    """It takes a file without "model" for the weights themselves, before any model sees it."""
    with pytest.raises(ValueError, match="Unsupported type found in checkpoint"):
        DetectionCheckpointer(model).load(save(model, tmp_path / "released.pth"))


def test_plain_detectron2_takes_the_weights_alone(model, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(torch.load(save(model, path), weights_only=True)["state_dict"], path)
    DetectionCheckpointer(model).load(str(path))
    assert (model.thing_mask_decoder.tail.q.weight == 0.5).all()


def test_a_backbone_alone(model, tmp_path):
    """torchvision's ResNet, with its classifier."""
    weights = {name: value for name, value in model.backbone.state_dict().items() if name.startswith("stem.conv1.")}
    names = {"stem.conv1.weight": "conv1.weight"} | {
        n: n.replace("stem.conv1.norm", "bn1") for n in weights if "norm" in n
    }
    weights = {names[name]: torch.full_like(value, 0.25) for name, value in weights.items()}
    path = tmp_path / "resnet.pth"
    torch.save(weights | {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}, path)
    PentamaskCheckpointer(model).load(str(path))
    assert (model.backbone.stem.conv1.weight == 0.25).all()
