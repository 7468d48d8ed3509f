"""A configuration small enough to train in a second or two."""

from collections.abc import Callable

import pytest
import torch

import pentamask  # noqa: F401


@pytest.fixture
def tiny(shapes, tmp_path) -> list[str]:
    """Options that shrink shapes/BlendMask_R_50_thin.yaml to two iterations on tiny images; OUTPUT_DIR is temporary."""
    torch.manual_seed(0)  # of demo.py, which knows no SEED; some random weights find nothing at all
    options = {
        "SEED": 1,
        "MODEL.DEVICE": "cpu",
        "MODEL.FCOS.NORM": "GN",  # batch norm needs training before it finds any box
        "MODEL.FCOS.INFERENCE_TH_TEST": 0.0,
        "MODEL.FCOS.POST_NMS_TOPK_TEST": 5,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": "()",
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(tmp_path / "out"),
    }
    return [str(word) for item in options.items() for word in item]


# ResNet-50 up to res3, with a norm that needs no statistics, and one feature level.
_ONE_LEVEL = {
    "backbone.bottom_up.stem.norm": "GN",
    "backbone.bottom_up.freeze_at": 0,
    "backbone.bottom_up.out_features": "[res3]",
    "backbone.in_features": "[res3]",
    "backbone.out_channels": 32,
}
_FCOS = {
    "backbone.top_block": "null",
    "proposal_generator.num_classes": 6,
    "proposal_generator.in_features": "[p3]",
    "proposal_generator.strides": "[8]",
    "proposal_generator.sizes_of_interest": "[]",
    "proposal_generator.fcos_head.num_levels": 1,
    "proposal_generator.fcos_head.in_channels": 32,
    "proposal_generator.test_limits.score_thresh": 0.0,
    "proposal_generator.test_limits.post_nms_topk": 5,
}
_MASK_HEAD = {
    "roi_heads.mask_in_features": "[p3]",
    "roi_heads.mask_pooler.scales": "[0.125]",
    "roi_heads.mask_head.input_shape.channels": 32,
    "roi_heads.mask_head.conv_dims": "[32,32]",
}
_TINY_MODELS = {
    "BlendMask": {
        **_ONE_LEVEL,
        **_FCOS,
        "basis_module.in_features": "[p3]",
        "basis_module.in_channels": "[32]",
        "top_channels": 32,
    },
    "CenterMask": {
        **_ONE_LEVEL,
        **_FCOS,
        **_MASK_HEAD,
        "roi_heads.maskiou_head.in_channels": 32,
        "roi_heads.maskiou_head.channels": 32,
        "roi_heads.maskiou_head.fc_channels": 32,
    },
    "MaskRCNN": {
        **_ONE_LEVEL,
        **_MASK_HEAD,
        "backbone.top_block": "null",
        "proposal_generator.in_features": "[p3]",
        "proposal_generator.head.in_channels": 32,
        "proposal_generator.anchor_generator.sizes": "[[24]]",
        "proposal_generator.anchor_generator.strides": "[8]",
        "roi_heads.num_classes": 6,
        "roi_heads.box_in_features": "[p3]",
        "roi_heads.box_pooler.scales": "[0.125]",
        "roi_heads.box_head.input_shape.channels": 32,
        "roi_heads.box_head.fc_dims": "[32]",
        "roi_heads.box_predictor.input_shape.channels": 32,
        "roi_heads.box_predictor.test_score_thresh": 0.0,
        "roi_heads.box_predictor.test_topk_per_image": 5,
    },
    "PanopticSegFormer": {
        "backbone.stem.norm": "GN",
        "backbone.out_features": "[res3]",
        "in_features": "[res3]",
        "channels": 32,
        "num_thing_classes": 6,
        "num_stuff_classes": 3,
        "max_things": 5,
        "merge_options.quality_thresh_things": 0.0,
        "encoder.in_channels": "[512]",
        "encoder.num_layers": 1,
        "location_decoder.num_levels": 2,
        "location_decoder.num_layers": 1,
        "location_decoder.num_queries": 20,
        "thing_mask_decoder.num_levels": 1,
        "thing_mask_decoder.num_blocks": 1,
        "stuff_mask_decoder.num_levels": 1,
        "stuff_mask_decoder.num_blocks": 1,
    },
    "YOLACT": {
        **_ONE_LEVEL,
        "backbone.num_extra_levels": 0,
        "num_classes": 6,
        "image_size": 64,
        "anchor_scales": "[[24]]",
        "postprocessor.score_thresh": 0.0,
        "postprocessor.max_detections": 5,
    },
}


def _tiny_data(plugin: str) -> dict[str, object]:
    """Small pictures of the shapes data; YOLACT stretches them itself, and Panoptic SegFormer may crop them."""
    panoptic = plugin == "PanopticSegFormer"
    form = "_panoptic" if panoptic else ""
    data = {"train.dataset.names": f"shapes_train{form}", "test.dataset.names": f"shapes_val{form}"}
    if plugin != "YOLACT":
        data[f"train.mapper.augmentations.{int(panoptic)}.short_edge_length"] = "[64]"
        data["test.mapper.augmentations.0.short_edge_length"] = 64
    if not panoptic:
        data["train.mapper.instance_mask_format"] = "bitmask"
    return {**data, "train.total_batch_size": 2, "train.num_workers": 0, "test.num_workers": 0}


@pytest.fixture
def lazy(shapes, tmp_path) -> Callable[[str], list[str]]:
    """The arguments that train a tiny model of a LazyConfig for two iterations; train.output_dir is temporary."""

    def words(name: str) -> list[str]:
        torch.manual_seed(0)
        plugin, out = name.split("/")[0], tmp_path / "out"
        overrides = {f"model.{key}": value for key, value in _TINY_MODELS[plugin].items()}
        overrides |= {f"dataloader.{key}": value for key, value in _tiny_data(plugin).items()}
        overrides |= {"train.output_dir": out, "train.seed": 1}
        overrides |= {"train.init_checkpoint": "''", "train.max_iter": 2, "train.device": "cpu"}
        return ["--config-file", name, *(f"{key}={value}" for key, value in overrides.items())]

    return words
