"""The shipped configs are the released models and their recipe."""

import pytest
from detectron2.modeling import build_model

from pentamask import model_zoo
from pentamask.data.augmentation import build_augmentation


@pytest.mark.parametrize(
    "name, backbone, neck",
    [
        # Without weights and biases of the batch norms, which are constants here.
        ("R_50_1x", 23508032 - 53120, 5638144),
        ("PVTv2_B0_2x", 3409760, 714752),
    ],
)
def test_parameters_are_those_of_the_released_models(name, backbone, neck):
    cfg = model_zoo.get_config(f"PanopticSegFormer/{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert sum(p.numel() for p in model.backbone.parameters()) == backbone
    assert sum(p.numel() for p in model.encoder.neck.parameters()) == neck
    unused = 530448 + 82240  # the branches that the released files have and nothing reads
    assert sum(p.numel() for p in model.parameters()) == backbone + neck + 22125724 - unused


@pytest.mark.parametrize(
    "name, epochs, step, quality",
    [
        ("R_50_1x", 12, 8, 0.25),
        ("R_50_2x", 24, 18, 0.25),
        ("R_101_2x", 24, 18, 0.25),
        ("PVTv2_B5_2x", 24, 18, 0.3),
        ("Swin_L_2x", 24, 18, 0.3),
    ],
)
def test_schedule_and_thresholds(name, epochs, step, quality):
    cfg = model_zoo.get_config(f"PanopticSegFormer/{name}.yaml")
    epoch = 118287 // cfg.SOLVER.IMS_PER_BATCH
    assert (round(cfg.SOLVER.MAX_ITER / epoch), round(cfg.SOLVER.STEPS[0] / epoch)) == (epochs, step)
    merge = cfg.MODEL.PANOPTIC_SEGFORMER.MERGE
    assert merge.QUALITY_THRESH_THINGS == merge.QUALITY_THRESH_STUFF == quality


def test_training_augmentation_is_the_papers():
    cfg = model_zoo.get_config("PanopticSegFormer/R_50_1x.yaml")
    crop, resize, flip = build_augmentation(cfg, is_train=True)
    assert type(crop).__name__ == "RandomApply" and crop.prob == 0.5
    assert resize.short_edge_length == tuple(range(480, 801, 32)) and resize.max_size == 1333
    assert type(resize).__name__ == "OpenCVResizeShortestEdge" and type(flip).__name__ == "RandomFlip"
