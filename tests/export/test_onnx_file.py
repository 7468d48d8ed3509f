"""The files: standard operators, any height and width, and the model's results in onnxruntime."""

import detectron2.layers
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
import torchvision
from onnx import numpy_helper
from pentamask_runner import Runner
from thin_models import THIN_MODELS, build_thin, build_variant, scenes

from pentamask import ops
from pentamask.export import export_onnx
from pentamask.export.verify import compare, run_eagerly

_DEFORMABLE = ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False,False,True,False]", "MODEL.RESNETS.DEFORM_MODULATED", True)
# Those whose steps after the dense part differ from the thin models'.
_VARIANTS = (
    "FCOS with DCN",
    "panoptic BlendMask",
    "panoptic CenterMask with VoVNet",
    "YOLACT with mask scores and greedy NMS",
    "Mask R-CNN C4",
)
# Classifying layers, by the end of their weights' names -> where of seven values the background is, if there is one.
_CLASSIFIERS = {"fcos_head.cls_logits.weight": None, "conf_layer.weight": 0, "box_predictor.cls_score.weight": 6}


@pytest.mark.parametrize("name", [*THIN_MODELS, *_VARIANTS])
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


@pytest.mark.parametrize("name", [*THIN_MODELS, *_VARIANTS])
def test_a_file_has_standard_operators_only(name: str, exported) -> None:
    graph = onnx.load(exported(name).path)
    version = 19 if name == "FCOS with DCN" else 18
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", version)]
    assert {node.domain for node in graph.graph.node} == {""} and not graph.functions
    assert not {"Loop", "If", "Scan"} & {node.op_type for node in graph.graph.node}


@pytest.mark.parametrize("name", THIN_MODELS)
def test_after_an_export_the_model_is_as_before(name: str, exported) -> None:
    """The file was written from this very object: it is in its mode, and gives the numbers of a fresh one."""
    used, (_, fresh) = exported(name).model, build_variant(name)
    (image,) = scenes(1)
    assert not used.training
    with torch.no_grad():
        ours, theirs = (model([{"image": image}])[0]["instances"] for model in (used, fresh))
    assert torch.equal(ours.scores, theirs.scores) and torch.equal(ours.pred_masks, theirs.pred_masks)


def test_an_opset_without_deformable_convolution_is_refused(tmp_path) -> None:
    """By which time the model was traced: no function of a library is another one afterwards."""
    cfg, model = build_thin("BlendMask_R_50_thin", *_DEFORMABLE)
    modules = (torch, F, torchvision.ops, torchvision.ops.boxes, detectron2.layers, detectron2.layers.wrappers, ops)
    before = [dict(vars(module)) for module in modules]
    with pytest.raises(ValueError, match="--opset 18: this model has deformable convolutions, which need 19"):
        export_onnx(model, cfg, str(tmp_path / "x.onnx"), opset=18)
    assert not (tmp_path / "x.onnx").exists()
    for module, functions in zip(modules, before):
        assert all(vars(module)[name] is function for name, function in functions.items()), module


@pytest.mark.parametrize("name", [*THIN_MODELS[:4], *_VARIANTS])
def test_nothing_found_is_ordinary(name: str, exported, tmp_path) -> None:
    """Of a dynamic number of detections and, of the variants, of a fixed one."""
    made = exported(name)
    model = onnx.load(made.path)
    shapes = {weights.name: weights.dims for weights in model.graph.initializer}
    for node in list(model.graph.node):
        for end, background in _CLASSIFIERS.items():
            if len(node.input) > 1 and node.input[1].endswith(end):
                bias = np.full(shapes[node.input[1]][0], -1e4, np.float32)
                if background is not None:
                    bias.reshape(-1, 7)[:, background] = 1e4
                model.graph.initializer.append(numpy_helper.from_array(bias, f"{node.name}.nothing"))
                node.input[:] = [*node.input[:2], f"{node.name}.nothing"]
    onnx.save(model, tmp_path / "x.onnx")
    runner, picture = Runner(str(tmp_path / "x.onnx"), threads=1), scenes(1)[0]
    outputs, found = runner.run(picture.numpy()), made.runner.run(picture.numpy())
    rows = made.module.inference.max_detections if name in _VARIANTS else 0
    for part, x in outputs.items():
        if part != "sem_seg":
            assert x.shape == (rows, *found[part].shape[1:]) and x.dtype == found[part].dtype
            assert (x == (-1 if part == "classes" else 0)).all()
    result = runner(picture.permute(1, 2, 0).numpy())
    assert result.boxes.shape == (0, 4) and (result.masks is None or result.masks.shape == (0, 128, 160))
