"""The config files of AdelaiDet and centermask2 as they are, against our recipes of the same names.

authors_configs.json holds the keys and values of the 57 files below `configs/BlendMask`, `configs/FCOS-Detection` and
`configs/centermask`, with their `_BASE_` resolved and without OUTPUT_DIR: by folder, what all its files share and the
rest.
"""

import json
import logging
from itertools import chain
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import GeneralizedRCNN, build_model

from pentamask import add_pentamask_config, model_zoo
from pentamask.centermask import CenterMask, PanopticCenterMask
from pentamask.engine.load_config import load_config
from pentamask.plugin import find_model_class

FILES = {
    f"{folder}/{name}": group["common"] | settings
    for folder, group in json.loads((Path(__file__).parent / "authors_configs.json").read_text()).items()
    for name, settings in group["files"].items()
}
# What names the same parts, or is not the model's, and may differ: ours start without a download from elsewhere.
NAMES = {
    "MODEL.META_ARCHITECTURE",
    "MODEL.BACKBONE.NAME",
    "MODEL.PROPOSAL_GENERATOR.NAME",
    "MODEL.ROI_HEADS.NAME",
    "MODEL.WEIGHTS",
}
# What follows from other keys and ours leave out.
DERIVED = {"MODEL.FCOS.FPN_STRIDES", "MODEL.BASIS_MODULE.NUM_CLASSES"}
# Centermask2's MobileNet file stands alone and lists what only other backbones read.
UNREAD = {"MODEL.RESNETS.OUT_FEATURES", "MODEL.VOVNET.OUT_FEATURES"}


def plain_config(settings: dict) -> CfgNode:
    """What `get_cfg` and `add_pentamask_config` make of the authors' keys, without any loader of ours."""
    cfg = get_cfg()
    add_pentamask_config(cfg)
    cfg.merge_from_list(list(chain.from_iterable(settings.items())))
    return cfg


def values(node: CfgNode, prefix: str = "") -> dict[str, object]:
    """All keys with their parents', and their values."""
    return {
        key: value
        for name, child in node.items()
        for key, value in (
            values(child, f"{prefix}{name}.") if isinstance(child, CfgNode) else {prefix + name: child}
        ).items()
    }


def state_shapes(cfg: CfgNode) -> dict[str, tuple[int, ...]]:
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in build_model(cfg).state_dict().items()}


def nested(settings: dict) -> dict:
    """The settings as a YAML file has them."""
    tree: dict = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def test_all_files_are_here() -> None:
    assert len(FILES) == 57
    ours = {name for name in model_zoo.list_models() if name.startswith(("BlendMask", "FCOS", "CenterMask"))}
    assert set(FILES) == {name for name in ours if name.endswith(".yaml")}


@pytest.mark.parametrize("name", FILES)
def test_authors_file_is_our_recipe(name: str) -> None:
    theirs, ours = plain_config(FILES[name]), model_zoo.get_config(name)
    expected = values(ours)
    differ = {key for key, value in values(theirs).items() if value != expected[key]} - NAMES - DERIVED
    assert differ <= (UNREAD if "_Mv2_" in name else set())
    assert state_shapes(theirs) == state_shapes(ours)


@pytest.fixture
def authors_yaml(tmp_path: Path) -> str:
    """A YAML file with a `_BASE_`, as centermask2 has them."""
    settings = FILES["CenterMask/panoptic_centermask_V_39_eSE_FPN_ms_3x.yaml"]
    body = {key: value for key, value in settings.items() if "VOVNET.CONV_BODY" in key or "SOLVER" in key}
    base = {key: value for key, value in settings.items() if key not in body}
    (tmp_path / "Base.yaml").write_text(yaml.safe_dump(nested(base)))
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"_BASE_": "Base.yaml", **nested(body)}))
    return str(file)


def test_yaml_with_base_by_every_way_of_loading(
    authors_yaml: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("pentamask"), "propagate", True)  # Detectron2's set-up of loggers stops it
    plain = get_cfg()
    add_pentamask_config(plain)
    plain.merge_from_file(authors_yaml)
    with caplog.at_level(logging.INFO):
        cfg = load_config(authors_yaml, ["MODEL.FCOS.NUM_CLASSES", "7"])
    assert cfg.MODEL.META_ARCHITECTURE == "PanopticCenterMask" and cfg.MODEL.FCOS.NUM_CLASSES == 7
    # pytest attaches itself to loggers that do not propagate, and may get a record twice.
    records = {id(record): record for record in caplog.records if record.name.startswith("pentamask")}
    assert [record.getMessage() for record in records.values()] == [
        "This config is written for the authors' code: its MODEL.META_ARCHITECTURE PanopticFPN is "
        "PanopticCenterMask here."
    ]
    assert find_model_class(plain) is PanopticCenterMask
    assert state_shapes(plain) == state_shapes(load_config(authors_yaml, []))


def test_detectron2_builds_the_same_centermask(thin_centermask: CfgNode) -> None:
    """Plain Detectron2 makes a `GeneralizedRCNN` of our parts, with equal results."""
    torch.manual_seed(0)
    theirs, ours = thin_centermask, thin_centermask.clone()
    ours.MODEL.META_ARCHITECTURE = "CenterMask"
    model, expected = build_model(theirs), build_model(ours)
    assert type(model) is GeneralizedRCNN and type(expected) is CenterMask
    assert model.proposal_generator.yield_proposal
    expected.load_state_dict(model.state_dict())
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        result, reference = (m.eval()([{"image": image}])[0]["instances"] for m in (model, expected))
    assert len(result) > 0
    assert torch.equal(result.pred_boxes.tensor, reference.pred_boxes.tensor)
    for field in ("scores", "pred_classes", "mask_scores", "pred_masks"):
        assert torch.equal(result.get(field), reference.get(field))


@pytest.fixture
def thin_centermask() -> CfgNode:
    """Centermask2's smallest model, with few channels and no score limit."""
    cfg = plain_config(FILES["CenterMask/centermask_lite_V_19_slim_dw_eSE_FPN_ms_4x.yaml"])
    cfg.MODEL.DEVICE, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FCOS.INFERENCE_TH_TEST = "cpu", 64, 0.0
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = cfg.MODEL.ROI_MASKIOU_HEAD.CONV_DIM = 16
    return cfg


def test_settings_that_the_authors_code_does_not_read_are_accepted(caplog: pytest.LogCaptureFixture) -> None:
    unread = {
        "MODEL.FCOS.USE_RELU": True,
        "MODEL.FCOS.YIELD_PROPOSAL": False,
        "MODEL.FCOS.YIELD_BOX_FEATURES": False,
        "MODEL.VOVNET.OUT_CHANNELS": 256,
        "MODEL.VOVNET.BACKBONE_OUT_CHANNELS": 256,
        "MODEL.DLA.OUT_FEATURES": ["stage2"],
        "MODEL.TOP_MODULE.NAME": "conv",
    }
    cfg = get_cfg()
    add_pentamask_config(cfg)
    expected = cfg.clone()
    cfg.merge_from_other_cfg(CfgNode(nested(unread)))
    assert cfg == expected
    assert len(caplog.messages) == len(unread) and "MODEL.FCOS.USE_RELU" in caplog.messages[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.BACKBONE.ANTI_ALIAS", True),
        ("MODEL.ROI_MASKIOU_HEAD.NAME", "Other"),
    ],
)
def test_settings_that_would_change_the_model_are_refused(key: str, value: object) -> None:
    cfg = plain_config(FILES["CenterMask/centermask_R_50_FPN_ms_3x.yaml"] | {key: value})
    with pytest.raises(ValueError, match=key):
        state_shapes(cfg)


def test_mobilenet_by_the_builder_of_resnets() -> None:
    settings = FILES["CenterMask/centermask_lite_Mv2_FPN_ms_4x.yaml"]
    by_key = {"MODEL.MOBILENET": True, "MODEL.BACKBONE.NAME": "build_fcos_resnet_fpn_backbone"}
    assert state_shapes(plain_config(settings | by_key)) == state_shapes(plain_config(settings))
