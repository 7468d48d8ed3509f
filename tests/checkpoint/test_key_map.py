"""Renaming and refusing, on a small stand-in for a detector, through Detectron2's own checkpointer."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from pentamask.checkpoint.key_map import KeyRules, register_key_rules

RULES = KeyRules(
    model="Toy",
    renames=((r"^rpn\.", "head."), (r"\.centerness\.", ".ctrness.")),
    ignored=(r"^seg_head\.",),
    optional=(r"^head\.cls_logits\.",),
)


def toy(classes=3):
    model = nn.ModuleDict(
        {
            "backbone": nn.ModuleDict({"bottom_up": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))}),
            "head": nn.ModuleDict({"ctrness": nn.Conv2d(4, 1, 1), "cls_logits": nn.Conv2d(4, classes, 1)}),
        }
    )
    register_key_rules(model, RULES)
    return model


def load(model, state_dict, tmp_path):
    file = tmp_path / "model.pth"
    torch.save(state_dict, file)
    DetectionCheckpointer(model).load(str(file))
    return model


def authors_file(classes=3):
    source = toy(classes).state_dict()
    return {
        k.replace("head.", "rpn.").replace("ctrness", "centerness"): torch.rand_like(v.float())
        for k, v in source.items()
    }


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": x, "iteration": 7}], ids=["bare", "wrapped"])
def test_authors_names_load(tmp_path, wrap, caplog):
    file = authors_file()
    model = load(toy(), wrap(dict(file)), tmp_path)
    assert torch.equal(model["head"]["ctrness"].weight, file["rpn.centerness.weight"])
    assert torch.equal(model["backbone"]["bottom_up"][1].running_mean, file["backbone.bottom_up.1.running_mean"])
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_own_names_and_module_prefix_load(tmp_path):
    source = toy()
    model = load(toy(), {f"module.{k}": v for k, v in source.state_dict().items()}, tmp_path)
    assert torch.equal(model["head"]["cls_logits"].weight, source["head"]["cls_logits"].weight)


def test_bookkeeping_entries_are_optional_both_ways(tmp_path, caplog):
    file = authors_file()
    del file["backbone.bottom_up.1.num_batches_tracked"]
    file.update(
        {
            "pixel_mean": torch.ones(3, 1, 1),
            "seg_head.0.weight": torch.ones(1),
            "head.x.num_batches_tracked": torch.tensor(1),
        }
    )
    load(toy(), {"model": file}, tmp_path)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_file_of_another_model_is_refused_with_both_sides(tmp_path):
    file = authors_file()
    file["roi_heads.box_head.fc1.weight"] = file.pop("rpn.centerness.weight")
    with pytest.raises(ValueError, match=r"Toy.*head\.ctrness\.weight.*roi_heads\.box_head\.fc1\.weight"):
        load(toy(), file, tmp_path)
    with pytest.raises(ValueError, match="expects 10 entries, 0 of them were found"):
        load(toy(), {"conv1.weight": torch.ones(1)}, tmp_path)


def test_wrong_shape_is_refused(tmp_path):
    file = {k.replace("rpn.", "head.").replace("centerness", "ctrness"): v for k, v in authors_file().items()}
    file["head.ctrness.weight"] = torch.ones(1, 9, 1, 1)
    with pytest.raises(ValueError, match=r"another shape: head\.ctrness\.weight"):
        load(toy(), file, tmp_path)


def test_backbone_file_is_accepted(tmp_path):
    file = {k: v for k, v in authors_file().items() if k.startswith("backbone.")}
    model = load(toy(), {**file, "fc.weight": torch.ones(1)}, tmp_path)
    assert torch.equal(model["backbone"]["bottom_up"][0].weight, file["backbone.bottom_up.0.weight"])


def test_imagenet_file_without_prefix_goes_to_the_backbone(tmp_path):
    file = {k.removeprefix("backbone.bottom_up."): v for k, v in authors_file().items() if k.startswith("backbone.")}
    model = load(toy(), {**file, "fc.weight": torch.ones(1)}, tmp_path)
    assert torch.equal(model["backbone"]["bottom_up"][0].weight, file["0.weight"])


def test_another_number_of_classes_keeps_the_new_layer(tmp_path):
    file = {k.replace("rpn.", "head.").replace("centerness", "ctrness"): v for k, v in authors_file(classes=5).items()}
    model = toy(classes=2)
    before = model["head"]["cls_logits"].weight.clone()
    load(model, file, tmp_path)
    assert torch.equal(model["head"]["cls_logits"].weight, before)
    assert torch.equal(model["head"]["ctrness"].weight, file["head.ctrness.weight"])


def test_as_a_part_of_another_module():
    outer, source = nn.ModuleDict({"detector": toy()}), authors_file()
    outer.load_state_dict({f"detector.{k}": v for k, v in source.items()})
    assert torch.equal(outer["detector"]["head"]["ctrness"].bias, source["rpn.centerness.bias"])
