"""Every recipe builds the authors' network: number of parameters and of state-dict entries."""

import pytest
import torch
from detectron2.modeling import build_model

from pentamask import model_zoo

# config: (parameters in millions, state-dict entries where they are known, last iteration)
MODELS = {
    "BlendMask/R_50_1x": (35.98, 379, 90000),
    "BlendMask/R_50_3x": (35.98, 379, 270000),
    "BlendMask/R_101_3x": (54.92, None, 270000),
    "BlendMask/R_101_dcni3_5x": (55.61, None, 400000),
    "BlendMask/550_R_50_1x": (32.29, 351, 90000),
    "BlendMask/550_R_50_3x": (32.29, 351, 270000),
    "BlendMask/550_R_50_dcni3_5x": (32.60, None, 270000),
    "BlendMask/RT_R_50_4x_syncbn_shtw": (31.75, 402, 360000),
    "BlendMask/RT_R_50_4x_bn-head_syncbn_shtw": (31.76, 441, 360000),
    "BlendMask/DLA_34_syncbn_4x": (25.93, 344, 360000),
    "BlendMask/Panoptic/R_50_1x": (38.27, 406, 90000),
    "BlendMask/Panoptic/R_50_3x": (38.27, 406, 270000),
    "BlendMask/Panoptic/R_101_3x": (57.21, None, 270000),
    "BlendMask/Panoptic/R_101_dcni3_5x": (57.89, None, 400000),
    "BlendMask/Panoptic/R_50_dcni3_5x": (38.58, None, 400000),
    "BlendMask/Person/R_50_1x": (35.79, None, 90000),
    "FCOS/R_50_1x": (32.24, 324, 90000),
    "FCOS/R_50_1x_iou": (32.24, 324, 90000),
    "FCOS/MS_R_50_2x": (32.24, 324, 180000),
    "FCOS/MS_R_50_2x_iou": (32.24, 324, 180000),
    "FCOS/MS_R_101_2x": (51.18, None, 180000),
    "FCOS/MS_R_101_2x_iou": (51.18, None, 180000),
    "FCOS/MS_X_101_32x8d_2x": (95.33, None, 180000),
    "FCOS/MS_X_101_32x8d_2x_iou": (95.33, None, 180000),
    "FCOS/MS_X_101_32x8d_2x_dcnv2": (102.67, None, 180000),
    "FCOS/MS_X_101_32x8d_2x_dcnv2_iou": (102.67, None, 180000),
    "FCOS/MS_X_101_64x4d_2x": (89.99, None, 180000),
    "FCOS/MS_X_101_64x4d_2x_dcnv2": (97.33, None, 180000),
    "FCOS/RT/MS_R_50_4x_syncbn": (31.11, None, 360000),
    "FCOS/RT/MS_R_50_4x_syncbn_bn_head": (31.12, None, 360000),
    "FCOS/RT/MS_DLA_34_4x_syncbn": (22.19, None, 360000),
    "FCOS/RT/MS_DLA_34_4x_syncbn_bn_head": (22.20, None, 360000),
    "FCOS/RT/MS_DLA_34_4x_syncbn_shared_towers": (19.83, None, 360000),
    "FCOS/RT/MS_DLA_34_4x_syncbn_shared_towers_bn_head": (19.83, None, 360000),
}


@pytest.mark.parametrize("name", MODELS)
def test_network_of_the_recipe(name):
    parameters, entries, max_iter = MODELS[name]
    cfg = model_zoo.get_config(f"{name}.yaml")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == parameters
    assert entries is None or len(model.state_dict()) == entries
    assert max_iter == cfg.SOLVER.MAX_ITER
