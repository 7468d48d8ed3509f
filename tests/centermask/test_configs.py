"""The authors' recipes: published numbers of parameters and state-dict entries."""

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from pentamask import model_zoo
from pentamask.centermask import CenterMask, PanopticCenterMask, add_centermask_config

# Name: million parameters, entries of the state dict.
RELEASED = {
    "centermask_V_39_eSE_FPN_ms_3x": (52.61, 293),
    "centermask_V_57_eSE_FPN_ms_3x": (68.87, 389),
    "centermask_V_99_eSE_FPN_ms_3x": (96.91, 613),
    "centermask_V_39_eSE_dcn_FPN_ms_3x": (54.38, 343),
    "centermask_V_57_eSE_dcn_FPN_ms_3x": (71.86, 469),
    "centermask_V_99_eSE_dcn_FPN_ms_3x": (102.33, 763),
    "centermask_lite_V_19_eSE_FPN_ms_4x": (20.12, 165),
    "centermask_lite_V_39_eSE_FPN_ms_4x": (35.11, 269),
    "centermask_lite_V_19_slim_eSE_FPN_ms_4x": (12.45, 165),
    "centermask_lite_V_19_slim_dw_eSE_FPN_ms_4x": (11.18, 194),
    "centermask_lite_Mv2_FPN_ms_4x": (11.49, 317),
    "panoptic_centermask_R_50_FPN_ms_3x": (53.51, 378),
    "panoptic_centermask_R_101_FPN_ms_3x": (72.45, 633),
    "panoptic_centermask_V_39_eSE_FPN_ms_3x": (54.90, 320),
    "panoptic_centermask_V_57_eSE_FPN_ms_3x": (71.16, 416),
    "panoptic_centermask_V_99_eSE_FPN_ms_3x": (99.20, 640),
}
WITHOUT_WEIGHTS = {
    "centermask_R_50_FPN_ms_3x": (51.23, None),
    "centermask_R_101_FPN_ms_3x": (70.17, None),
    "centermask_X_101_FPN_ms_3x": (114.31, None),
    "panoptic_centermask_X_101_FPN_ms_3x": (116.60, None),
}


@pytest.mark.parametrize(("name", "expected"), (RELEASED | WITHOUT_WEIGHTS).items())
def test_size_of_the_recipes(name, expected):
    cfg = model_zoo.get_config(f"CenterMask/{name}.yaml")
    cfg.MODEL.DEVICE = "meta"
    model = build_model(cfg)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == expected[0]
    if expected[1] is not None:
        assert len(model.state_dict()) == expected[1]


@pytest.mark.parametrize(("name", "millions"), [("V_39", 33.63), ("V_57", 49.88), ("V_99", 77.93)])
def test_size_of_the_fcos_recipes(name, millions):
    cfg = model_zoo.get_config(f"FCOS/vovnet/MS_{name}_3x.yaml")
    cfg.MODEL.DEVICE = "meta"
    assert round(sum(p.numel() for p in build_model(cfg).parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("name", RELEASED)
def test_settings_of_the_released_recipes(name):
    cfg = model_zoo.get_config(f"CenterMask/{name}.yaml")
    schedule_and_size = (cfg.SOLVER.MAX_ITER, cfg.INPUT.MIN_SIZE_TEST)
    assert schedule_and_size == ((360000, 600) if "lite" in name else (270000, 800))
    assert cfg.MODEL.MASKIOU_ON and cfg.MODEL.FCOS.POST_NMS_TOPK_TEST == 50
    assert cfg.MODEL.ROI_MASK_HEAD.ASSIGN_CRITERION == "ratio" and cfg.SOLVER.BASE_LR == 0.01


def test_keys_are_added_to_the_given_config_only():
    cfg = get_cfg()
    add_centermask_config(cfg)
    cfg.MODEL.MASKIOU_ON = True
    again = cfg.clone()
    add_centermask_config(again)
    assert again == cfg
    assert "MASKIOU_ON" not in get_cfg().MODEL and "ASSIGN_CRITERION" not in get_cfg().MODEL.ROI_MASK_HEAD


def test_keys_that_count_classes():
    assert [(count.field, count.key) for count in PanopticCenterMask.class_counts] == [
        ("thing_classes", "MODEL.FCOS.NUM_CLASSES"),
        ("thing_classes", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("stuff_classes", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
    ]
    assert CenterMask.class_counts == PanopticCenterMask.class_counts[:2]
