"""Detectron2's way into TorchScript, TracingAdapter and torch.jit.trace, works for every model."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from detectron2.export import TracingAdapter
from detectron2.structures import Boxes, Instances
from thin_models import THIN_MODELS, build_thin, scenes
from torch import nn

# Thresholds by which the pictures have different numbers of objects.
_FEWER = {
    "BlendMask_R_50_thin": ("MODEL.FCOS.INFERENCE_TH_TEST", 0.5),
    "YOLACT_R_50_thin": ("MODEL.YOLACT.SCORE_THRESH_TEST", 0.97),
    "MaskRCNN_R_50_thin": ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.9),
}


def instances_only(model: nn.Module, inputs: list[dict]) -> list[Instances]:
    return [output["instances"] for output in model(inputs)]


def fields(instances: Instances) -> dict[str, torch.Tensor]:
    return {k: v.tensor if isinstance(v, Boxes) else v for k, v in instances.get_fields().items()}


@pytest.mark.parametrize("name", THIN_MODELS)
def test_a_traced_model_equals_the_model_on_other_pictures(name: str) -> None:
    """Also with another number of objects than that of the picture that was traced."""
    _, model = build_thin(name, *_FEWER.get(name, ()))
    traced_on, other, _ = scenes(3)
    large = F.pad(other, (13, 40, 7, 21), value=90)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of sizes that are compared with constants
        adapter = TracingAdapter(model, [{"image": traced_on}], inference_func=instances_only)
        traced = torch.jit.trace(adapter, (traced_on,), check_trace=False)
        counts = set()
        for image in (traced_on, other, large):
            (found,), (expected,) = adapter.outputs_schema(traced(image)), instances_only(model, [{"image": image}])
            ours, theirs = fields(found), fields(expected)
            different = (ours.pop("pred_masks") != theirs.pop("pred_masks")).sum()
            # Compiled operators, which are not traced, round otherwise than their plain versions.
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
            assert different <= 5  # pixels, of some 20000 in each of up to 100 masks
            counts.add(len(expected))
    assert len(counts) == 3 or name == "PanopticSegFormer_R_50_thin"  # which always has its 40 best queries
