"""Replays cases of YOLACT and YOLACT++, recorded with dbolya/yolact."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from harness import Case, Comparison
from torch import Tensor, nn

from pentamask import model_zoo
from pentamask.yolact import YOLACT, cross_class_fast_nms, fast_nms
from pentamask.yolact.anchors import decode_boxes, encode_boxes, prior_boxes
from pentamask.yolact.inference import Detections, Postprocessor
from pentamask.yolact.key_rules import KEY_RULES
from pentamask.yolact.losses import YolactLoss, hard_negatives
from pentamask.yolact.mask_networks import MaskIoUNet
from pentamask.yolact.matching import NEUTRAL, match_priors
from pentamask.yolact.nms import greedy_nms

# The authors' config keys, and ours below MODEL.YOLACT.
_KEYS = {
    "max_size": "IMAGE_SIZE",
    "nms_conf_thresh": "SCORE_THRESH_TEST",
    "nms_thresh": "NMS_THRESH_TEST",
    "nms_top_k": "NMS_TOPK",
    "positive_iou_threshold": "POSITIVE_IOU",
    "negative_iou_threshold": "NEGATIVE_IOU",
    "crowd_iou_threshold": "CROWD_OVERLAP",
    "ohem_negpos_ratio": "NEGATIVE_RATIO",
    "masks_to_train": "MASKS_TO_TRAIN",
    "bbox_alpha": "BOX_LOSS_WEIGHT",
    "conf_alpha": "CLASS_LOSS_WEIGHT",
    "mask_alpha": "MASK_LOSS_WEIGHT",
    "semantic_segmentation_alpha": "SEMANTIC_LOSS_WEIGHT",
    "maskiou_alpha": "MASK_IOU.LOSS_WEIGHT",
    "discard_mask_area": "MASK_IOU.MIN_AREA",
    "use_maskiou": "MASK_IOU.ENABLED",
    "rescore_bbox": "MASK_IOU.RESCORE_BOXES",
    "mask_proto_crop": "CROP_MASKS",
    "backbone.pred_scales": "ANCHOR_SCALES",
    "backbone.use_square_anchors": "SQUARE_ANCHORS",
    "fpn.num_downsample": "NUM_EXTRA_LEVELS",
}
_OTHER_KEYS = {
    "fpn.num_features": "MODEL.FPN.OUT_CHANNELS",
    "max_num_detections": "TEST.DETECTIONS_PER_IMAGE",
    "lr": "SOLVER.BASE_LR",
    "momentum": "SOLVER.MOMENTUM",
    "decay": "SOLVER.WEIGHT_DECAY",
    "gamma": "SOLVER.GAMMA",
    "max_iter": "SOLVER.MAX_ITER",
    "lr_steps": "SOLVER.STEPS",
    "lr_warmup_until": "SOLVER.WARMUP_ITERS",
}
# What has one value in all released models, and in ours.
_FIXED = {
    "rescore_mask": (True, False),  # follows from use_maskiou here
    "emulate_roi_pooling": (True,),
    "share_prediction_module": (True,),
    "crop_with_pred_box": (False,),
    "mask_proto_crop_expand": (0,),
    "maskious_to_train": (-1,),
    "use_semantic_segmentation_loss": (True,),
    "train_semantic": (True,),
    "backbone.use_pixel_scales": (True,),
    "backbone.preapply_sqrt": (False,),
}


def replay(case: Case, compare: Comparison, tmp_path: Path) -> None:
    """Run the case with our model and compare everything that was recorded."""
    if case.spec["kind"] == "module":
        return _MODULES[case.spec["run"]](case, compare)
    model = _build(case, tmp_path)
    if case.spec["kind"] == "inference":
        return _replay_inference(case, compare, model.eval())
    assert case.spec["kind"] == "losses", f"unknown kind {case.spec['kind']!r}"
    return _replay_losses(case, compare, model.train())


def _close(case: Case, compare: Comparison, name: str, actual: Tensor) -> None:
    """The absolute tolerance shrinks with arrays of small values, such as gradients."""
    tolerance = case.spec["tolerance"]
    scale = np.abs(compare.expected[name]).max(initial=0.0) if name in compare else 0.0
    compare.close(name, actual, rtol=tolerance["rtol"], atol=tolerance["atol"] * min(1.0, float(scale)))


def _config(case: Case, model: str | None = None) -> CfgNode:
    cfg = model_zoo.get_config(f"YOLACT/{model or case.spec['model']}.yaml")
    cfg.MODEL.DEVICE = case.device
    cfg.MODEL.WEIGHTS = ""
    node = cfg.MODEL.YOLACT
    for key, value in case.spec["config"].items():
        if key == "freeze_bn":
            node.BN_MIN_BATCH = cfg.SOLVER.IMS_PER_BATCH + 1 if value else 0
        elif key == "num_classes":
            node.NUM_CLASSES = value - 1
        elif key == "backbone.pred_aspect_ratios":
            node.ASPECT_RATIOS = [float(ratio) for ratio in value[0][0]]
        elif key in _FIXED:
            assert value in _FIXED[key], f"{key} is {value!r}, which no released model has"
        elif key in _KEYS:
            cfg.merge_from_list([f"MODEL.YOLACT.{_KEYS[key]}", value])
        else:
            cfg.merge_from_list([_OTHER_KEYS[key], value])
    return cfg


def _build(case: Case, tmp_path: Path) -> nn.Module:
    state_dict = case.state_dict()
    for name, edit in case.spec.get("tensor_edits", {}).items():
        state_dict[name] = state_dict[name] * edit.get("mul", 1) + np.asarray(edit.get("add", 0))
    file = tmp_path / f"{case.spec['model']}_54_800000.pth"
    weights = {key: torch.from_numpy(np.asarray(value)) for key, value in state_dict.items()}
    torch.save(weights, file, _use_new_zipfile_serialization=False)
    model = build_model(_config(case)).to(case.dtype)
    DetectionCheckpointer(model).load(str(file))
    # The authors normalise in float32, also where the network runs in float64; batch norm over few pixels shows it.
    single = SimpleNamespace(image_size=model.image_size, pixel_mean=model.pixel_mean.float())
    single.pixel_std = model.pixel_std.float()
    model.preprocess_image = lambda inputs: YOLACT.preprocess_image(single, inputs).to(case.dtype)
    return model


def _rgb(image: np.ndarray) -> Tensor:
    """(H, W, 3) BGR -> (3, H, W) RGB."""
    return torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())


def _priors(cfg: CfgNode, dtype: torch.dtype = torch.float64) -> tuple[list[tuple[int, int]], Tensor]:
    """Sizes of the levels and the prior boxes; every halving of a map rounds up."""
    node = cfg.MODEL.YOLACT
    sides = [node.IMAGE_SIZE]
    for _ in range(7):
        sides.append(-(-sides[-1] // 2))
    sizes = tuple((side, side) for side in sides[3:])
    scales = tuple(tuple(level) for level in node.ANCHOR_SCALES)
    priors = prior_boxes(sizes, scales, tuple(node.ASPECT_RATIOS), node.IMAGE_SIZE, node.SQUARE_ANCHORS)
    return list(sizes), priors.to(dtype)


def _replay_inference(case: Case, compare: Comparison, model: nn.Module) -> None:
    bottom_up = model.backbone.bottom_up
    seen: dict = {}
    for i, stage in enumerate(bottom_up.stages if hasattr(bottom_up, "stages") else bottom_up.layers):
        stage.register_forward_hook(lambda m, x, y, i=i: seen.update({i: y}))
    model.backbone.register_forward_hook(lambda m, x, y: seen.update(features=y))
    model.postprocessor.final_score_thresh = case.spec["score_threshold"]
    height, width = case.inputs["output_size"].tolist()
    original = {"image": _rgb(case.inputs["image"]), "height": height, "width": width}
    # Torch's resize differs from OpenCV's by rounding: ours is compared, and theirs used, as decisions are close.
    resized = {**original, "image": _rgb(case.inputs.get("resized", case.inputs["image"]))}
    ours, theirs = (model.preprocess_image([x]) for x in (original, resized))
    assert torch.allclose(ours, theirs, rtol=0, atol=5e-4)  # the tolerance of the case `preprocess`
    with torch.no_grad():
        result = model([resized])[0]["instances"]
        predictions = model.predict(seen["features"])
        prototypes = predictions.prototypes[0]
        detections = model.postprocessor.detect(*(x[0] for x in predictions.outputs), predictions.priors)
        low_masks = model.postprocessor.low_masks(detections, prototypes)
        final = model.postprocessor.instances(detections, prototypes, height, width, model.mask_iou_net)

    for i in range(5):
        if i in seen:
            _close(case, compare, f"backbone/{i}", seen[i][0, :4])
    _compare_levels(case, compare, model, predictions, seen["features"])
    for name, value in zip(("boxes", "scores", "classes", "coefs"), detections):
        _close(case, compare, f"det/{name}", value)
    _close(case, compare, "low_masks", low_masks[: case.spec["store"]["low_masks"]])
    if "maskiou" in compare:
        # Of all classes, or of that of each detection.
        per_class = compare.expected["maskiou"].ndim == 2
        net = model.mask_iou_net
        with torch.no_grad():
            _close(case, compare, "maskiou", net(low_masks) if per_class else net.scores(low_masks, detections.classes))
    _compare_final(case, compare, "final/", final)
    # The model leaves out what lies beside the picture.
    inside = final[final.pred_boxes.nonempty()]
    assert torch.equal(result.scores, inside.scores) and torch.equal(result.pred_masks, inside.pred_masks)


def _compare_levels(case: Case, compare: Comparison, model: nn.Module, predictions, features: dict) -> None:
    store = case.spec["store"]
    counts = [x.shape[2] * x.shape[3] * len(predictions.priors) for x in features.values()]
    cells = sum(x.shape[2] * x.shape[3] for x in features.values())
    counts = [count // cells for count in counts]
    compare.equal("num_priors", counts)
    outputs = predictions.outputs
    parts = [outputs.loc, outputs.logits[..., :: store["class_stride"]], outputs.coefficients]
    for name, feature, *level in zip(features, features.values(), *(part[0].split(counts) for part in parts)):
        level_name = name.upper()
        _close(case, compare, f"fpn/{level_name}", feature[0, :: store["fpn_channel_stride"]])
        for kind, values in zip(("loc", "conf", "coef"), level):
            _close(case, compare, f"{kind}/{level_name}", values[:: store["prior_stride"]])
    _close(case, compare, "proto", predictions.prototypes[0].permute(1, 2, 0)[..., :: store["proto_stride"]])


def _compare_final(case: Case, compare: Comparison, prefix: str, final: Instances) -> None:
    compare.equal(f"{prefix}classes", final.pred_classes)
    compare.equal(f"{prefix}boxes", final.pred_boxes.tensor)
    compare.pixels(f"{prefix}masks", final.pred_masks, case.spec["tolerance"]["mask_pixels"], per_item=True)
    scores = final.scores
    if final.has("mask_scores"):
        for name in ("mask_scores", "scores_mask"):
            _close(case, compare, prefix + name, final.mask_scores)
        for name in ("box_scores", "scores_box"):
            _close(case, compare, prefix + name, final.scores)
        # The authors return the scores of boxes and masks as one list.
        if f"{prefix}scores" in compare and compare.expected[f"{prefix}scores"].ndim == 2:
            scores = torch.stack((final.scores, final.mask_scores))
    _close(case, compare, f"{prefix}scores", scores)


def _training_input(case: Case, i: int) -> dict:
    """An image and its ground truth; one without objects may lack the arrays."""
    image = _rgb(case.inputs[f"image{i}"])
    boxes, labels, masks = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, *image.shape[1:])
    if f"gt{i}_boxes" in case.inputs:
        boxes, labels, masks = (case.input(f"gt{i}_{name}") for name in ("boxes", "labels", "masks"))
    things = labels >= 0
    gt = Instances(tuple(image.shape[1:]))
    gt.gt_boxes, gt.gt_classes = Boxes(boxes[things]), labels[things]
    gt.gt_masks = BitMasks(masks[: len(gt)])  # crowds come last
    return {"image": image, "instances": gt, "crowd_boxes": boxes[~things]}


def _replay_losses(case: Case, compare: Comparison, model: nn.Module) -> None:
    seen: dict = {}
    model.prediction_head.register_forward_hook(lambda m, x, y: seen.update(outputs=y))
    model.semantic_seg_conv.register_forward_hook(lambda m, x, y: seen.update(segm=y))
    inputs = [_training_input(case, i) for i in range(len(case.spec["image_sizes"]))]
    losses = model(inputs)
    total = sum(losses.values())
    total.backward()

    for name, loss in losses.items():
        _close(case, compare, f"loss/{name}", loss)
    _close(case, compare, "loss/total", total)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for name in case.spec["gradients"]:
        grad = parameters[KEY_RULES.rename(name)].grad
        _close(case, compare, f"grad_norm/{name}", grad.norm())
        _close(case, compare, f"grad_first8/{name}", grad.flatten()[:8])
    for name in case.spec.get("buffers", []):
        _close(case, compare, f"buffer_first8/{name}", buffers[KEY_RULES.rename(name)].flatten()[:8])

    store, outputs = case.spec["store"], seen["outputs"]
    stride = store["prior_stride"]
    _close(case, compare, "loc", outputs.loc[:, ::stride])
    _close(case, compare, "conf", outputs.logits[:, ::stride, :: store["class_stride"]])
    _close(case, compare, "coef", outputs.coefficients[:, ::stride])
    _close(case, compare, "segm", seen["segm"][:, ::16])
    _, priors = _priors(_config(case), case.dtype)
    targets = [model._targets(x) for x in inputs]
    matches = model.loss.match(priors, targets)
    negatives = hard_negatives(outputs.logits, matches.labels, model.loss.negative_ratio)
    compare.equal("conf_rows", (matches.positive | negatives).sum())
    for i, target in enumerate(targets):
        _compare_matches(case, compare, i, target.boxes, priors, matches.labels[i], matches.index[i])


def _compare_matches(
    case: Case, compare: Comparison, i: int, boxes: Tensor, priors: Tensor, labels: Tensor, index: Tensor
) -> None:
    positive = labels > 0
    compare.equal(f"conf_t{i}", labels)
    compare.equal(f"neutral_t{i}", labels == NEUTRAL)
    compare.equal(f"idx_t{i}", index)
    _close(case, compare, f"loc_t{i}", encode_boxes(boxes[index[positive]], priors[positive]))


def _replay_fast_nms(case: Case, compare: Comparison) -> None:
    cfg = _config(case)
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    for set_name in case.spec["sets"]:
        boxes, scores = case.input(f"{set_name}/boxes"), case.input(f"{set_name}/scores")
        for run_name, run in case.spec["runs"].items():
            if run["kind"] == "cross_class":
                kept = cross_class_fast_nms(boxes, scores, run["iou"], run["top_k"])
            elif run["kind"] == "traditional":
                kept = greedy_nms(boxes * cfg.MODEL.YOLACT.IMAGE_SIZE, scores, run["iou"])
                kept = [part[:limit] for part in kept]
            else:
                kept = fast_nms(boxes, scores, run["iou"], run["top_k"])
                if run.get("second_threshold"):  # which the authors' models leave out
                    kept = [part[kept[2] > cfg.MODEL.YOLACT.SCORE_THRESH_TEST] for part in kept]
                kept = [part[:limit] for part in kept]
            prefix = f"{set_name}/{run_name}/"
            compare.equal(f"{prefix}index", kept[0])
            compare.equal(f"{prefix}classes", kept[1])
            _close(case, compare, f"{prefix}scores", kept[2])
    if "layer/loc" in case.inputs:
        _replay_layer(case, compare, Postprocessor(cfg))


def _replay_layer(case: Case, compare: Comparison, postprocessor: Postprocessor) -> None:
    loc, logits, coefs, priors = (
        case.input(f"layer/{name}").to(case.dtype) for name in ("loc", "logits", "coefs", "priors")
    )
    for i in range(len(loc)):
        detections = postprocessor.detect(loc[i], logits[i], coefs[i], priors)
        assert (len(detections.scores) > 0) == (f"layer/{i}/score" in compare)
        for name, value in zip(("box", "score", "class", "mask"), detections):
            _close(case, compare, f"layer/{i}/{name}", value)


def _replay_mask_assembly(case: Case, compare: Comparison) -> None:
    for scene in case.spec["scenes"]:
        proto = case.input(f"{scene}/proto").to(case.dtype).permute(2, 0, 1)
        detections = Detections(*(case.input(f"{scene}/{name}") for name in ("boxes", "scores", "classes", "coefs")))
        postprocessor = Postprocessor(_config(case))
        postprocessor.final_score_thresh = float(case.inputs[f"{scene}/score_threshold"])
        _close(case, compare, f"{scene}/low_masks", postprocessor.low_masks(detections, proto))
        for height, width in case.inputs[f"{scene}/output_sizes"].tolist():
            for crop, suffix in ((True, ""), (False, "uncropped/")):
                postprocessor.crop_masks = crop
                final = postprocessor.instances(detections, proto, height, width)
                _compare_final(case, compare, f"{scene}/{height}x{width}/{suffix}", final)


def _replay_rescoring(case: Case, compare: Comparison) -> None:
    weights = {name: torch.from_numpy(value) for name, value in case.state_dict().items()}
    net = MaskIoUNet(_config(case).MODEL.YOLACT.NUM_CLASSES).to(case.dtype)
    net.load_state_dict({KEY_RULES.rename(k).removeprefix("mask_iou_net."): v for k, v in weights.items()})
    masks = case.input("masks").to(case.dtype).requires_grad_()
    quality = net(masks)
    (quality * case.input("grad_output")).sum().backward()
    _close(case, compare, "maskiou", quality)
    _close(case, compare, "grad_input", masks.grad)
    for name in weights:
        grad = net.get_parameter(KEY_RULES.rename(name).removeprefix("mask_iou_net.")).grad
        _close(case, compare, f"grad_norm/{name}", grad.norm())
        _close(case, compare, f"grad_first8/{name}", grad.flatten()[:8])


def _replay_matching(case: Case, compare: Comparison) -> None:
    cfg = _config(case)
    _, priors = _priors(cfg, case.dtype)
    settings = YolactLoss(cfg).matching
    side = cfg.MODEL.YOLACT.IMAGE_SIZE
    for i in range(len(case.spec["images"])):
        boxes, crowd = case.input(f"gt{i}_boxes") / side, case.input(f"gt{i}_crowd_boxes") / side
        labels, index = match_priors(boxes, case.input(f"gt{i}_labels"), crowd, priors, **settings)
        _compare_matches(case, compare, i, boxes, priors, labels, index)
    _close(case, compare, "priors", priors)
    _close(case, compare, "decoded", decode_boxes(case.input("loc"), priors))


def _replay_preprocess(case: Case, compare: Comparison) -> None:
    for name in case.spec["models"]:
        model: YOLACT = build_model(_config(case, name))
        for key in case.inputs:
            network_input = model.preprocess_image([{"image": _rgb(case.inputs[key])}])[0]
            _close(case, compare, f"{name}/{key}", network_input)
            resized = (network_input * model.pixel_std + model.pixel_mean).flip(0).permute(1, 2, 0)
            _close(case, compare, f"resized/{key}", resized)


def _replay_priors(case: Case, compare: Comparison) -> None:
    for name in case.spec["models"]:
        cfg = _config(case, name)
        sizes, priors = _priors(cfg)
        per_cell = len(cfg.MODEL.YOLACT.ANCHOR_SCALES[0]) * len(cfg.MODEL.YOLACT.ASPECT_RATIOS)
        compare.equal(f"{name}/level_sizes", sizes)
        compare.equal(f"{name}/proto_size", [2 * side for side in sizes[0]])
        compare.equal(f"{name}/num_priors", [height * width * per_cell for height, width in sizes])
        _close(case, compare, f"{name}/priors", priors[:: case.spec["row_stride"].get(name, 1)])
        _close(case, compare, f"{name}/column_sums", priors.sum(dim=0))


_MODULES = {
    "fast_nms": _replay_fast_nms,
    "mask_assembly": _replay_mask_assembly,
    "rescoring": _replay_rescoring,
    "matching": _replay_matching,
    "preprocess": _replay_preprocess,
    "priors": _replay_priors,
}
