"""Replays cases of CenterMask, recorded with centermask2."""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, polygons_to_bitmask
from detectron2.utils.events import EventStorage
from harness import Case, Comparison
from torch import Tensor, nn

from pentamask import model_zoo
from pentamask.centermask import AdaptiveROIPooler, CenterROIHeads, SpatialAttentionMaskHead
from pentamask.centermask.mask_head import mask_targets, select_masks
from pentamask.centermask.mask_iou_head import inside_shares, mask_iou_targets
from pentamask.fcos.head import FCOSOutputs


def replay(case: Case, compare: Comparison, tmp_path: Path) -> None:
    """Run the case with our model and compare everything that was recorded."""
    if case.spec["kind"] == "module":
        if "sam_y" in compare:
            return _replay_mask_head(case, compare)
        if "loss_maskiou" in compare:
            return _replay_mask_scoring(case, compare)
        return _replay_assignment(case, compare)
    model = _build(case, tmp_path)
    if case.spec["kind"] == "inference":
        return _replay_inference(case, compare, model.eval())
    assert case.spec["kind"] == "losses", f"unknown kind {case.spec['kind']!r}"
    return _replay_losses(case, compare, model.train())


def _close(case: Case, compare: Comparison, name: str, actual: Tensor) -> None:
    tolerance = case.spec["tolerance"]
    compare.close(name, actual, rtol=tolerance["rtol"], atol=tolerance["atol"])


def _config(case: Case) -> CfgNode:
    cfg = model_zoo.get_config("CenterMask/" + case.spec["source"].rsplit("/", 1)[1])
    cfg.MODEL.DEVICE = case.device
    cfg.MODEL.WEIGHTS = ""
    cfg.merge_from_list([x for item in case.spec["config"].items() for x in item])
    return cfg


def _state_dict(case: Case) -> dict[str, Tensor]:
    arrays = case.state_dict()
    for name, factor in case.spec["state_dict_scale"].items():
        arrays[name] = arrays[name] * factor
    for name, value in case.spec["state_dict_add"].items():
        arrays[name] = arrays[name] + value
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def _build(case: Case, tmp_path: Path) -> nn.Module:
    file = tmp_path / "model_final.pth"
    torch.save({"model": _state_dict(case), "iteration": 269999}, file)
    model = build_model(_config(case)).to(case.dtype)
    DetectionCheckpointer(model).load(str(file))
    return model


def _batched_inputs(case: Case) -> list[dict]:
    inputs = []
    for i, size in enumerate(case.spec["image_sizes"]):
        height, width = case.spec.get("output_sizes", case.spec["image_sizes"])[i]
        image = case.input(f"image{i}").permute(2, 0, 1).to(case.dtype)
        inputs.append({"image": image, "height": height, "width": width})
        if case.spec["kind"] == "losses":
            inputs[-1]["instances"] = _instances(case, f"gt{i}_", tuple(size))
        if f"gt{i}_sem_seg" in case.inputs:
            inputs[-1]["sem_seg"] = case.input(f"gt{i}_sem_seg").long()
    return inputs


def _instances(case: Case, prefix: str, size: tuple[int, int]) -> Instances:
    """The ground truth of an image; one without objects may lack the arrays."""
    if f"{prefix}boxes" not in case.inputs:
        empty = {"gt_boxes": Boxes(torch.zeros(0, 4)), "gt_classes": torch.zeros(0, dtype=torch.int64)}
        return Instances(size, **empty, gt_masks=PolygonMasks([]))
    boxes, classes = Boxes(case.input(f"{prefix}boxes")), case.input(f"{prefix}classes")
    parts = np.split(case.inputs[f"{prefix}poly_coords"], np.cumsum(case.inputs[f"{prefix}poly_lengths"])[:-1])
    objects = case.inputs[f"{prefix}poly_instance"]
    polygons = [[p for p, o in zip(parts, objects) if o == i] for i in range(len(boxes))]
    masks = PolygonMasks(polygons)
    if case.spec["config"].get("INPUT.MASK_FORMAT") == "bitmask":
        maps = [polygons_to_bitmask(p, *size) for p in polygons]
        masks = BitMasks(torch.from_numpy(np.array(maps, dtype=bool).reshape(-1, *size)))
    return Instances(size, gt_boxes=boxes, gt_classes=classes, gt_masks=masks)


def _replay_inference(case: Case, compare: Comparison, model: nn.Module) -> None:
    seen: dict = {"pooled": None}
    model.backbone.register_forward_hook(lambda m, x, y: seen.update(features=y))
    model.proposal_generator.fcos_head.register_forward_hook(lambda m, x, y: seen.update(head=y))
    # Post-processing changes boxes in place.
    model.roi_heads.register_forward_hook(lambda m, x, y: seen.update(raw=[_copy(d) for d in y[0]]))
    if model.roi_heads.mask_on:
        model.roi_heads.mask_pooler.register_forward_hook(lambda m, x, y: seen.update(pooled=y))
    with torch.no_grad():
        results = model(_batched_inputs(case))

    for name, feature in seen["features"].items():
        _close(case, compare, f"fpn_{name}", feature[:, :8])
    _compare_head(case, compare, model.proposal_generator.in_features, seen["head"], "", 1)
    if seen["pooled"] is not None:
        _close(case, compare, "pooled", seen["pooled"][:8, :8])
    for i, (raw, result) in enumerate(zip(seen["raw"], results)):
        _compare_raw(case, compare, f"raw{i}_", raw, model)
        final = result["instances"]
        _compare_detections(case, compare, f"final{i}_", final)
        if final.has("pred_masks"):
            compare.pixels(f"final{i}_masks", final.pred_masks, 0.002, per_item=True)
        if "panoptic_seg" in result:
            _compare_panoptic(case, compare, f"final{i}_", result)


def _copy(detections: Instances) -> Instances:
    boxes = detections.pred_boxes.clone()
    return Instances(detections.image_size, **{**detections.get_fields(), "pred_boxes": boxes})


def _compare_head(
    case: Case, compare: Comparison, levels: list[str], head: FCOSOutputs, suffix: str, class_step: int
) -> None:
    for level, name in enumerate(levels):
        _close(case, compare, f"logits_{name}{suffix}", head.logits[level][:, ::class_step])
        _close(case, compare, f"reg_{name}", head.reg[level])
        _close(case, compare, f"ctr_{name}", head.ctrness[level])


def _compare_detections(case: Case, compare: Comparison, prefix: str, detections: Instances) -> None:
    _close(case, compare, f"{prefix}boxes", detections.pred_boxes.tensor)
    _close(case, compare, f"{prefix}scores", detections.scores)
    compare.equal(f"{prefix}classes", detections.pred_classes)
    if detections.has("mask_scores"):
        _close(case, compare, f"{prefix}mask_scores", detections.mask_scores)
    if detections.has("pred_keypoints"):
        _close(case, compare, f"{prefix}keypoints", detections.pred_keypoints)


def _compare_raw(case: Case, compare: Comparison, prefix: str, raw: Instances, model: nn.Module) -> None:
    _compare_detections(case, compare, prefix, raw)
    compare.equal(f"{prefix}locations", raw.locations)
    if raw.has("pred_masks"):
        pooler = model.roi_heads.mask_pooler
        levels = pooler.assign_levels([raw.pred_boxes], [raw.image_size]) + pooler.min_level
        compare.equal(f"{prefix}levels", levels)
        _close(case, compare, f"{prefix}mask_probs", raw.pred_masks[:, 0])
    if raw.has("mask_scores"):
        _close(case, compare, f"{prefix}maskiou", raw.mask_scores / raw.scores)


def _compare_panoptic(case: Case, compare: Comparison, prefix: str, result: dict) -> None:
    _close(case, compare, f"{prefix}sem_seg", result["sem_seg"])
    compare.pixels(f"{prefix}sem_argmax", result["sem_seg"].argmax(dim=0), 0.002)
    panoptic, segments = result["panoptic_seg"]
    compare.pixels(f"{prefix}panoptic", panoptic, 0.002)
    rows = [[s["id"], s["isthing"], s["category_id"]] for s in segments]
    compare.equal(f"{prefix}segments", np.array(rows, dtype=np.int64).reshape(-1, 3))


def _replay_losses(case: Case, compare: Comparison, model: nn.Module) -> None:
    seen: dict = {}
    fcos, heads = model.proposal_generator, model.roi_heads
    fcos.fcos_head.register_forward_hook(lambda m, x, y: seen.update(head=y))
    inputs = _batched_inputs(case)
    with (
        EventStorage(),
        mock.patch.object(fcos, "detect", side_effect=_record(fcos.detect, seen, "detections")),
        mock.patch.object(heads, "losses", side_effect=_record(heads.losses, seen, "mask_losses")),
    ):
        losses = model(inputs)
    total = sum(losses.values())
    total.backward()

    _close(case, compare, "total", total)
    for name, loss in losses.items():
        _close(case, compare, name, loss)
    _compare_gradients(case, compare, model)
    _compare_targets(case, compare, model, seen["head"], [x["instances"] for x in inputs])
    _compare_head(case, compare, fcos.in_features, seen["head"], "_ch10", 10)
    for i, proposals in enumerate(seen["detections"][1]):
        _compare_detections(case, compare, f"proposals{i}_", proposals)
    _, logits, rois = seen["mask_losses"][0]
    sizes = [len(x) for x in rois]
    for i, (x, logits_per_image) in enumerate(zip(rois, logits.split(sizes))):
        _compare_foreground(case, compare, f"fg{i}_", x, logits_per_image, heads.mask_pooler)


def _record(function, seen: dict, name: str):
    """`function`, whose arguments and result are put under `name`."""

    def call(*args):
        result = function(*args)
        seen[name] = args, result
        return result

    return call


def _compare_gradients(case: Case, compare: Comparison, module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if f"gradnorm/{name}" in compare:
            _close(case, compare, f"gradnorm/{name}", parameter.grad.norm())
            _close(case, compare, f"grad8/{name}", parameter.grad.flatten()[:8])


def _compare_targets(
    case: Case, compare: Comparison, model: nn.Module, head: FCOSOutputs, gt_instances: list[Instances]
) -> None:
    fcos = model.proposal_generator
    labels, distances, _ = fcos.label_locations(head, gt_instances)
    sizes = [x.shape[0] * x.shape[2] * x.shape[3] for x in head.logits]
    for name, level_labels, level_distances in zip(fcos.in_features, labels.split(sizes), distances.split(sizes)):
        compare.equal(f"labels_{name}", level_labels)
        _close(case, compare, f"reg_targets_fg_{name}", level_distances[level_labels != fcos.num_classes])


def _compare_foreground(
    case: Case, compare: Comparison, prefix: str, rois: Instances, logits: Tensor, pooler: AdaptiveROIPooler
) -> None:
    """RoIs are compared in the order of (x1, y1, x2, y2, class): theirs is random."""
    if len(rois) == 0:  # those of an image without objects have no classes and masks
        compare.close(f"{prefix}boxes", rois.proposal_boxes.tensor, rtol=0, atol=0)
        for name in ("classes", "levels", "maskiou_targets"):
            compare.equal(f"{prefix}{name}", torch.zeros(0))
        return
    boxes = rois.proposal_boxes.tensor
    order = torch.from_numpy(np.lexsort([rois.gt_classes.cpu(), *boxes.T.flip(0).cpu()]))
    targets = mask_iou_targets(
        select_masks(logits, rois.gt_classes),
        mask_targets([rois], logits.shape[-1]),
        inside_shares(rois.gt_masks, boxes),
    )
    _close(case, compare, f"{prefix}boxes", boxes[order])
    compare.equal(f"{prefix}classes", rois.gt_classes[order])
    levels = pooler.assign_levels([rois.proposal_boxes], [rois.image_size]) + pooler.min_level
    compare.equal(f"{prefix}levels", levels[order])
    _close(case, compare, f"{prefix}maskiou_targets", targets[order])


def _replay_assignment(case: Case, compare: Comparison) -> None:
    boxes, image_index = case.input("boxes"), case.input("image_index")
    per_image = [Boxes(boxes[image_index == i]) for i in range(len(case.inputs["image_sizes"]))]
    order = torch.cat([(image_index == i).nonzero()[:, 0] for i in range(len(per_image))])
    for name in compare.expected:
        criterion, low, high = name.split("_")
        scales = tuple(2.0**-level for level in range(int(low), int(high) + 1))
        pooler = AdaptiveROIPooler(14, scales, 0, "ROIAlignV2", criterion)
        levels = torch.empty_like(image_index)
        levels[order] = pooler.assign_levels(per_image, case.inputs["image_sizes"].tolist()) + int(low)
        compare.equal(name, levels)


def _replay_mask_head(case: Case, compare: Comparison) -> None:
    """Spatial attention alone and the mask head, differentiated through sum(y * cos(flat index of y))."""
    cfg = _config(case)
    channels, size = case.inputs["x"].shape[1:3]
    head = SpatialAttentionMaskHead(cfg, ShapeSpec(channels=channels, height=size, width=size)).to(case.dtype)
    head.load_state_dict(_state_dict(case))

    x = case.input("x").to(case.dtype).requires_grad_()
    y = head.spatialAtt(x)
    (y * torch.arange(y.numel(), dtype=case.dtype).cos().view_as(y)).sum().backward()
    _close(case, compare, "sam_y", y[:, ::4])
    # The map is the same in all channels; one where x is not 0 shows it.
    index = x.abs().argmax(dim=1, keepdim=True)
    maps = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
    gate = torch.where(
        x.gather(1, index) == 0, head.spatialAtt.conv(maps).sigmoid(), y.gather(1, index) / x.gather(1, index)
    )
    _close(case, compare, "sam_attention", gate)
    _close(case, compare, "sam_grad_x", x.grad[:, ::4])
    _close(case, compare, "sam_grad_x_norm", x.grad.norm())
    _close(case, compare, "sam_grad_weight", head.spatialAtt.conv.weight.grad)
    compare.equal("sam_empty_shape", head.spatialAtt(x[:0]).shape)

    head.zero_grad()
    x = case.input("x").to(case.dtype).requires_grad_()
    logits = head.layers(x)
    (logits * torch.arange(logits.numel(), dtype=case.dtype).cos().view_as(logits)).sum().backward()
    _close(case, compare, "head_logits_ch10", logits[:, ::10])
    _close(case, compare, "head_grad_x", x.grad[:, ::4])
    _close(case, compare, "head_grad_x_norm", x.grad.norm())
    _compare_gradients(case, compare, head)


def _replay_mask_scoring(case: Case, compare: Comparison) -> None:
    """The losses and the rescoring of the mask branch on given features and logits."""
    cfg = _config(case)
    features = case.input("mask_features").to(case.dtype).requires_grad_()
    logits = case.input("mask_logits").to(case.dtype).requires_grad_()
    shapes = {f"p{i}": ShapeSpec(channels=features.shape[1], stride=2**i) for i in (3, 4, 5)}
    cfg.MODEL.FCOS.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    heads = CenterROIHeads(cfg, shapes).to(case.dtype)
    heads.maskiou_head.load_state_dict(_state_dict(case))
    rois = []
    for i, size in enumerate(case.spec["image_sizes"]):
        rois.append(_instances(case, f"gt{i}_", tuple(size)))
        rois[-1].proposal_boxes = Boxes(case.input(f"proposals{i}"))

    losses = heads.losses(features, logits, rois)
    sum(losses.values()).backward()
    for name, loss in losses.items():
        _close(case, compare, name, loss)
    classes = torch.cat([x.gt_classes for x in rois])
    selected = select_masks(logits, classes)
    targets = mask_targets(rois, logits.shape[-1])
    shares = torch.cat([inside_shares(x.gt_masks, x.proposal_boxes.tensor) for x in rois])
    compare.equal("mask_targets", targets)
    _close(case, compare, "maskiou_targets", mask_iou_targets(selected, targets, shares))
    _close(case, compare, "selected_mask", selected.sigmoid())
    _close(case, compare, "maskiou_pred", heads.maskiou_head(features, selected.sigmoid()[:, None]))
    _close(case, compare, "grad_mask_logits_class", select_masks(logits.grad, classes))
    _close(case, compare, "grad_mask_logits_norm", logits.grad.norm())
    _close(case, compare, "grad_features", features.grad[:, ::8])
    _close(case, compare, "grad_features_norm", features.grad.norm())
    _compare_gradients(case, compare, heads.maskiou_head)

    sizes = [len(x) for x in rois]
    detections = [
        Instances(x.image_size, pred_classes=x.gt_classes, scores=scores, pred_masks=masks)
        for x, scores, masks in zip(rois, case.input("scores").split(sizes), selected.sigmoid()[:, None].split(sizes))
    ]
    with torch.no_grad():
        heads.add_mask_scores(features, detections)
    _close(case, compare, "inference_mask_scores", torch.cat([x.mask_scores for x in detections]))
