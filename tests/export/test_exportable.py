"""In PyTorch the exportable form of a model gives what the model gives, bit by bit."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from thin_models import THIN_MODELS, VARIANTS, build_thin, build_variant, scenes
from torch import Tensor, nn

from pentamask.engine.load_config import find_config_file, load_config
from pentamask.export import Exportable
from pentamask.ops.resize_masks import resize_masks
from pentamask.panoptic_segformer.merging import score_masks
from pentamask.panoptic_segformer.meta_arch import instances_from_masks
from pentamask.yolact.inference import whole_pixels


def pictures() -> list[Tensor]:
    """Of three sizes, and a black one."""
    first, second, third = scenes(3)
    return [first, F.pad(second, (13, 40, 7, 21), value=90), third[:, :101], torch.zeros_like(third)]


def at_picture_size(module: Exportable, image: Tensor) -> Instances:
    """The outputs for a picture, brought to its size by the models' own functions."""
    outputs = dict(zip(module.output_names, module(image), strict=True))
    size = tuple(image.shape[1:])
    if "merge" in module.inference.description():
        things = outputs["classes"] < 6
        boxes, scores, classes, masks = (outputs[x][things] for x in ("boxes", "scores", "classes", "masks"))
        limit = boxes.new_tensor([size[1], size[0]]).repeat(2)
        return instances_from_masks(score_masks(masks, scores, size), torch.minimum(boxes.clamp(min=0), limit), classes)
    extra = {"mask_scores": outputs["mask_scores"]} if "mask_scores" in outputs else {}
    instances = Instances(size, scores=outputs["scores"], pred_classes=outputs["classes"], **extra)
    instances.pred_boxes = Boxes(outputs["boxes"])
    if module.mask_kind != "picture":
        if module.mask_kind == "roi":
            instances.pred_masks = outputs["masks"][:, None]
        return detector_postprocess(instances, *size)
    instances.pred_masks = resize_masks(outputs["masks"], *size)[0]
    instances.pred_boxes = Boxes(whole_pixels(outputs["boxes"] / torch.tensor([size[1], size[0]] * 2), *size))
    return instances[instances.pred_boxes.nonempty()]


# Random scores of the one with VoVNet tie, and what ties may change places.
@pytest.mark.parametrize("name", [*THIN_MODELS, *(name for name in VARIANTS if "VoVNet" not in name)])
@torch.no_grad()
def test_equals_the_model(name: str) -> None:
    _, model = build_variant(name) if name in VARIANTS else build_thin(name)
    module, total = Exportable(model), 0
    limit = 1e-5 if name == "Mask R-CNN C4" else 0  # its norms after pooling become factors, which round otherwise
    for image in pictures():
        found, (result,) = at_picture_size(module, image), model([{"image": image}])
        expected = result["instances"]
        assert len(found) == len(expected)
        total += len(found)
        for field in found.get_fields():
            ours, theirs = (x.get(field) for x in (found, expected))
            ours, theirs = (x.tensor if isinstance(x, Boxes) else x for x in (ours, theirs))
            torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit, msg=lambda text, f=field: f"{f}: {text}")
    assert total > 20


@pytest.mark.parametrize("detections", ["dynamic", "fixed"])
@torch.no_grad()
def test_nothing_found(detections: str) -> None:
    """Of a model without boxes that are good enough, with masks at the size of the picture."""
    _, model = build_thin("CenterMask_Lite_R_50_thin", "MODEL.FCOS.INFERENCE_TH_TEST", 1.1)
    module = Exportable(model, masks="image", detections=detections)
    boxes, scores, classes, masks, mask_scores = module(pictures()[0])
    rows = {"dynamic": 0, "fixed": 50}[detections]
    assert boxes.shape == (rows, 4) and masks.shape == (rows, *pictures()[0].shape[1:]) and masks.dtype == torch.bool
    assert scores.shape == mask_scores.shape == (rows,) and (classes == -1).all() and classes.dtype == torch.int64
    assert not (boxes.any() or scores.any() or masks.any() or mask_scores.any())


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("MaskRCNN_R_50_thin", ["MODEL.KEYPOINT_ON", True], "Mask R-CNN with key points cannot be exported: set MODEL"),
        ("MaskRCNN_R_50_thin", ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"], "not CascadeROIHeads with .*set MODEL.ROI"),
        (
            "CenterMask_Lite_R_50_thin",
            ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.IN_FEATURES", ["p3"]],
            "CenterMask with key points cannot be exported",
        ),
    ],
)
def test_unsupported_parts_are_refused(name: str, overrides: list[object], message: str) -> None:
    options = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
    cfg = load_config(find_config_file(f"shapes/{name}.yaml"), [str(word) for word in (*options, *overrides)])
    with pytest.raises(ValueError, match=message):
        Exportable(build_model(cfg))


def test_shares_weights_and_leaves_the_model_alone() -> None:
    _, model = build_thin("MaskRCNN_R_50_thin")
    modules = [type(module) for module in model.train().modules()]
    module = Exportable(model)
    assert not module.training and model.training and model.backbone.training
    assert [type(x) for x in model.modules()] == modules
    ours = {parameter.data_ptr() for parameter in module.parameters()}
    assert ours == {parameter.data_ptr() for parameter in model.parameters()}


def test_a_model_without_graph_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear cannot be exported: its class declares no `graph`"):
        Exportable(nn.Linear(1, 1))


@pytest.mark.parametrize(("option", "key"), [({"masks": "full"}, "--masks"), ({"detections": "all"}, "--detections")])
def test_unknown_options_are_refused(option: dict[str, str], key: str) -> None:
    _, model = build_thin("BlendMask_R_50_thin")
    with pytest.raises(ValueError, match=f"{key} is '.*'; choose"):
        Exportable(model, **option)
