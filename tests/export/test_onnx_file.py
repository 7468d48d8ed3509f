"""The files: standard operators, any height and width, and the model's results in onnxruntime."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from pentamask_runner import Runner
from thin_models import FEWER_LAYERS, THIN_MODELS, build_thin, scenes

from pentamask.export import export_onnx
from pentamask.export.verify import compare, run_eagerly

_DEFORMABLE = ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False,False,True,False]", "MODEL.RESNETS.DEFORM_MODULATED", True)


@pytest.mark.parametrize("name", THIN_MODELS)
def test_a_file_finds_what_the_model_finds(name: str, exported) -> None:
    made = exported(name)
    small, wide, large = scenes(3)
    pictures = [small, wide[:, :, 3:], F.pad(large, (13, 240, 7, 121), value=90), torch.zeros_like(small)]
    for image in pictures:
        agreement = compare(run_eagerly(made.module, image.numpy()), made.runner.run(image.numpy()))
        assert agreement.expected == agreement.found > 0
        # Random weights amplify rounding: with trained ones `agreement.is_close`.
        # Two boxes of Mask R-CNN overlap by 0.499994 in the file and 0.500012 in PyTorch: NMS decides otherwise.
        assert agreement.unmatched <= (name.startswith("MaskRCNN") and image is small), agreement
        assert agreement.boxes < 0.02 and agreement.scores < 1e-3 and agreement.masks < 2e-3, agreement


@pytest.mark.parametrize("name", THIN_MODELS)
def test_a_file_has_standard_operators_only(name: str, exported) -> None:
    graph = onnx.load(exported(name).path)
    assert [opset.domain for opset in graph.opset_import] == [""] and graph.opset_import[0].version == 18
    assert {node.domain for node in graph.graph.node} == {""} and not graph.functions
    assert not {"Loop", "If", "Scan"} & {node.op_type for node in graph.graph.node}


@pytest.mark.parametrize("name", THIN_MODELS)
def test_after_an_export_the_model_is_as_before(name: str, exported) -> None:
    """The file was written from this very object: it is in its mode, and gives the numbers of a fresh one."""
    used, (_, fresh) = exported(name).model, build_thin(name, *FEWER_LAYERS.get(name, ()))
    (image,) = scenes(1)
    assert not used.training
    with torch.no_grad():
        ours, theirs = (model([{"image": image}])[0]["instances"] for model in (used, fresh))
    assert torch.equal(ours.scores, theirs.scores) and torch.equal(ours.pred_masks, theirs.pred_masks)


def test_an_opset_without_deformable_convolution_is_refused(tmp_path) -> None:
    cfg, model = build_thin("BlendMask_R_50_thin", *_DEFORMABLE)
    with pytest.raises(ValueError, match="--opset 18: this model has deformable convolutions, which need 19"):
        export_onnx(model, cfg, str(tmp_path / "x.onnx"), opset=18)
    assert not (tmp_path / "x.onnx").exists()


def test_nothing_found_is_ordinary(tmp_path) -> None:
    cfg, model = build_thin("CenterMask_Lite_R_50_thin", "MODEL.FCOS.INFERENCE_TH_TEST", 1.1)
    for detections, rows in (("dynamic", 0), ("fixed", 50)):
        path = str(tmp_path / f"{detections}.onnx")
        export_onnx(model, cfg, path, detections=detections)
        runner = Runner(path, threads=1)
        outputs = runner.run(scenes(1)[0].numpy())
        assert outputs["boxes"].shape == (rows, 4) and outputs["masks"].shape == (rows, 28, 28)
        assert (outputs["classes"] == -1).all() and outputs["classes"].dtype == np.int64
        assert not outputs["scores"].any() and not outputs["boxes"].any() and not outputs["masks"].any()
        result = runner(scenes(1)[0].permute(1, 2, 0).numpy())
        assert result.boxes.shape == (0, 4) and result.masks.shape == (0, 128, 160)
