"""Replays cases of BlendMask and FCOS, recorded with AdelaiDet."""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, polygons_to_bitmask
from harness import Case, Comparison
from torch import Tensor, nn

from pentamask import add_pentamask_config, model_zoo
from pentamask.blendmask import Blender
from pentamask.fcos import Positives


def replay(case: Case, compare: Comparison, tmp_path: Path) -> None:
    """Run the case with our model and compare everything that was recorded."""
    kind = case.spec["kind"]
    if kind == "module":
        return _replay_blender(case, compare)
    model = _build(case, tmp_path)
    if kind == "inference":
        return _replay_inference(case, compare, model.eval())
    assert kind == "losses", f"unknown kind {kind!r}"
    return _replay_losses(case, compare, model.train())


def _close(case: Case, compare: Comparison, name: str, actual: Tensor) -> None:
    """The tolerance is relative to the array's largest magnitude."""
    tolerance = case.spec["tolerance"]
    scale = np.abs(compare.expected[name]).max(initial=0.0) if name in compare else 0.0
    compare.close(name, actual, rtol=tolerance["rtol"], atol=tolerance["atol"] * float(scale))


def _config(case: Case) -> CfgNode:
    name = case.spec["source"].split("configs/")[1]
    name = name.replace("FCOS-Detection/", "FCOS/").replace("FCOS_RT/", "RT/")
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = case.device
    cfg.MODEL.WEIGHTS = ""
    cfg.merge_from_list([x for item in case.spec["config"].items() for x in item])
    return cfg


def _build(case: Case, tmp_path: Path) -> nn.Module:
    cfg = _config(case)
    state_dict = case.state_dict()
    for name, edit in case.spec.get("tensor_edits", {}).items():
        state_dict[name] = state_dict[name] * edit.get("mul", 1) + np.asarray(edit.get("add", 0))
    file = tmp_path / "model_final.pth"
    torch.save({"model": {k: torch.from_numpy(np.asarray(v)) for k, v in state_dict.items()}, "iteration": 89999}, file)
    model = build_model(cfg).to(case.dtype)
    DetectionCheckpointer(model).load(str(file))
    return model


def _batched_inputs(case: Case) -> list[dict]:
    inputs = []
    for i, size in enumerate(case.spec["image_sizes"]):
        image = case.input(f"im{i}_image").to(case.dtype)
        height, width = case.spec.get("output_sizes", case.spec["image_sizes"])[i]
        inputs.append({"image": image, "height": height, "width": width})
        if case.spec["kind"] == "losses":
            inputs[-1]["instances"] = _instances(case, f"im{i}_", tuple(size))
        for name in ("basis_sem", "sem_seg"):
            if f"im{i}_{name}" in case.inputs:
                inputs[-1][name] = case.input(f"im{i}_{name}").long()
    return inputs


def _instances(case: Case, prefix: str, size: tuple[int, int]) -> Instances:
    """The ground truth of an image; one without objects may lack the arrays."""
    if f"{prefix}gt_boxes" not in case.inputs:
        return Instances(size, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
    instances = Instances(size)
    instances.gt_boxes = Boxes(case.input(f"{prefix}gt_boxes"))
    instances.gt_classes = case.input(f"{prefix}gt_classes")
    if f"{prefix}gt_poly_xy" not in case.inputs:
        return instances
    parts = np.split(case.inputs[f"{prefix}gt_poly_xy"], np.cumsum(case.inputs[f"{prefix}gt_poly_len"])[:-1])
    objects = case.inputs[f"{prefix}gt_poly_obj"]
    polygons = [[p for p, o in zip(parts, objects) if o == i] for i in range(len(instances))]
    if case.spec.get("mask_format", "polygon") == "bitmask":
        masks = [torch.from_numpy(polygons_to_bitmask(p, *size)) for p in polygons]
        instances.gt_masks = BitMasks(torch.stack(masks) if masks else torch.zeros((0, *size), dtype=torch.bool))
    else:
        instances.gt_masks = PolygonMasks(polygons)
    return instances


def _replay_inference(case: Case, compare: Comparison, model: nn.Module) -> None:
    store = case.spec["store"]
    seen: dict[str, list] = {"top_feats": [], "raw": [], "probs": []}
    model.backbone.register_forward_hook(lambda m, x, y: seen.update(features=y))
    model.proposal_generator.fcos_head.register_forward_hook(lambda m, x, y: seen.update(head=y))
    # Later steps change detections in place.
    model.proposal_generator.register_forward_hook(lambda m, x, y: seen.update(raw=[_copy(d) for d in y[0]]))
    if hasattr(model, "blender"):
        model.basis_module.register_forward_hook(lambda m, x, y: seen.update(bases=y))
        model.top_layer.register_forward_hook(lambda m, x, y: seen["top_feats"].append(y))
        inference = model.blender.inference

        def blend(*args):
            detections = inference(*args)
            seen["probs"] = [d.pred_masks for d in detections]
            return detections

        with torch.no_grad(), mock.patch.object(model.blender, "inference", blend):
            results = model(_batched_inputs(case))
        _close(case, compare, "bases", seen["bases"])
    else:
        with torch.no_grad():
            results = model(_batched_inputs(case))

    for name, feature in seen["features"].items():
        _close(case, compare, f"feature_{name}_c0_4", feature[:, :4])
    head = seen["head"]
    for level, name in enumerate(model.proposal_generator.in_features):
        _close(case, compare, f"logits_{name}", head.logits[level][:, :: store["class_step"]])
        _close(case, compare, f"reg_{name}", head.reg[level])
        _close(case, compare, f"ctrness_{name}", head.ctrness[level])
        if seen["top_feats"]:
            _close(case, compare, f"top_feats_{name}", seen["top_feats"][level][:, :: store["top_step"]])
    for i, result in enumerate(results):
        _compare_detections(case, compare, f"im{i}_", seen["raw"][i], result["instances"])
        if seen["probs"]:
            _close(case, compare, f"im{i}_mask_probs_first8", seen["probs"][i][:8, 0])
        if "panoptic_seg" in result:
            _compare_panoptic(case, compare, f"im{i}_", result)


def _copy(detections: Instances) -> Instances:
    boxes = detections.pred_boxes.clone()
    return Instances(detections.image_size, **{**detections.get_fields(), "pred_boxes": boxes})


def _compare_detections(case: Case, compare: Comparison, prefix: str, raw: Instances, final: Instances) -> None:
    _close(case, compare, f"{prefix}raw_boxes", raw.pred_boxes.tensor)
    _close(case, compare, f"{prefix}raw_scores", raw.scores)
    compare.equal(f"{prefix}raw_classes", raw.pred_classes)
    compare.equal(f"{prefix}raw_locations", raw.locations)
    compare.equal(f"{prefix}raw_levels", raw.fpn_levels)
    _close(case, compare, f"{prefix}boxes", final.pred_boxes.tensor)
    _close(case, compare, f"{prefix}scores", final.scores)
    compare.equal(f"{prefix}classes", final.pred_classes)
    if final.has("pred_masks"):
        compare.pixels(f"{prefix}masks", final.pred_masks, case.spec["tolerance"]["mask_pixels"], per_item=True)


def _compare_panoptic(case: Case, compare: Comparison, prefix: str, result: dict) -> None:
    step, pixels = case.spec["store"]["sem_step"], case.spec["tolerance"]["mask_pixels"]
    _close(case, compare, f"{prefix}sem_seg", result["sem_seg"][:, ::step, ::step])
    compare.pixels(f"{prefix}sem_argmax", result["sem_seg"].argmax(dim=0), pixels)
    panoptic, segments = result["panoptic_seg"]
    compare.pixels(f"{prefix}panoptic", panoptic, pixels)
    rows = [[s["id"], s["isthing"], s["category_id"], s.get("instance_id", -1)] for s in segments]
    compare.equal(f"{prefix}segments", np.array(rows, dtype=np.int64).reshape(-1, 4))
    _close(case, compare, f"{prefix}segment_scores", torch.tensor([float(s.get("score", -1)) for s in segments]))


def _replay_losses(case: Case, compare: Comparison, model: nn.Module) -> None:
    seen: dict = {}
    fcos = model.proposal_generator
    fcos.fcos_head.register_forward_hook(lambda m, x, y: seen.update(head=y))
    fcos.register_forward_hook(lambda m, x, y: seen.update(positives=y[0]["positives"]))
    inputs = _batched_inputs(case)
    losses = model(inputs)
    sum(losses.values()).backward()

    for name, loss in losses.items():
        _close(case, compare, f"loss/{name}", loss)
    parameters = dict(model.named_parameters())
    for name in case.spec["gradients"]:
        grad = parameters[name].grad
        _close(case, compare, f"grad_norm/{name}", grad.norm())
        _close(case, compare, f"grad_first8/{name}", grad.flatten()[:8])
    buffers = dict(model.named_buffers())
    for name in case.spec.get("buffers", []):
        _close(case, compare, f"buffer_first8/{name}", buffers[name].flatten()[:8])

    labels, _, gt_inds = fcos.label_locations(seen["head"], [x["instances"] for x in inputs])
    compare.equal("target_labels", labels)
    compare.equal("target_inds", gt_inds)
    compare.equal("target_level_lengths", [x.shape[0] * x.shape[2] * x.shape[3] for x in seen["head"].logits])
    positives = seen["positives"]
    compare.equal("pos_inds", positives.pos_inds)
    compare.equal("pos_levels", positives.levels)
    _close(case, compare, "pos_reg_targets", positives.reg_targets)
    _close(case, compare, "pos_ctrness_targets", positives.gt_ctrs)
    _close(case, compare, "loss_denorm", positives.loss_denorm)


def _replay_blender(case: Case, compare: Comparison) -> None:
    """The blender alone, in several settings."""
    for n, (overrides, shape) in enumerate(zip(case.spec["config"], case.spec["shapes"])):
        cfg = get_cfg()
        add_pentamask_config(cfg)
        cfg.merge_from_list([x for item in overrides.items() for x in item])
        stride = round(2 / cfg.MODEL.BLENDMASK.POOLER_SCALES[0])
        blender = Blender(cfg, {"p3": ShapeSpec(stride=stride)})
        _replay_setting(case, compare, f"s{n}_", blender, tuple(shape["image_size"]))


def _replay_setting(case: Case, compare: Comparison, prefix: str, blender: Blender, size: tuple[int, int]) -> None:
    def leaf(name: str) -> Tensor:
        return case.input(prefix + name).to(case.dtype).requires_grad_()

    bases, attention = leaf("bases"), leaf("attns")
    counts = case.inputs[f"{prefix}counts"].tolist()
    detections = []
    for boxes, top_feat in zip(case.input(f"{prefix}boxes").split(counts), attention.split(counts)):
        detections.append(Instances(size, pred_boxes=Boxes(boxes), top_feat=top_feat))
    probs = torch.cat([d.pred_masks[:, 0] for d in blender.inference(bases, detections)])
    grads = torch.autograd.grad((probs * case.input(f"{prefix}upstream")).sum(), (bases, attention))
    _close(case, compare, f"{prefix}mask_probs", probs)
    _close(case, compare, f"{prefix}grad_bases", grads[0])
    _close(case, compare, f"{prefix}grad_attns", grads[1])

    bases, attention = leaf("bases"), leaf("attns")
    gt_inds = case.input(f"{prefix}gt_inds")
    positives = Positives(
        pos_inds=gt_inds,
        gt_inds=gt_inds,
        levels=gt_inds,
        reg_targets=torch.zeros(len(gt_inds), 4),
        gt_ctrs=case.input(f"{prefix}gt_ctrs"),
        loss_denorm=case.input(f"{prefix}loss_denorm"),
        top_feats=attention,
    )
    gt_instances = [_instances(case, f"{prefix}im{i}_", size) for i in range(len(counts))]
    loss = blender.losses(bases, positives, gt_instances)["loss_mask"]
    grads = torch.autograd.grad(loss, (bases, attention))
    _close(case, compare, f"{prefix}loss_mask", loss)
    _close(case, compare, f"{prefix}loss_grad_bases", grads[0])
    _close(case, compare, f"{prefix}loss_grad_attns", grads[1])
