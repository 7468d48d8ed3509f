"""Replays cases of Panoptic SegFormer, recorded with the authors' code and the libraries it pins."""

import fnmatch
import re
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from harness import Case, Comparison
from torch import Tensor, nn

from pentamask import model_zoo
from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.data.augmentation import build_augmentation
from pentamask.ops import ms_deform_attn
from pentamask.panoptic_segformer.criterion import match_locations, match_masks
from pentamask.panoptic_segformer.key_rules import KEY_RULES, UNUSED
from pentamask.panoptic_segformer.location_decoder import inverse_sigmoid
from pentamask.panoptic_segformer.merging import MergeOptions, merge, score_masks
from pentamask.panoptic_segformer.meta_arch import instances_from_masks, output_boxes

_NODE = "MODEL.PANOPTIC_SEGFORMER."
# Options of the authors' head that a case may override -> our keys.
_HEAD_OPTIONS = {
    "num_query": _NODE + "NUM_QUERIES",
    "num_things_classes": _NODE + "NUM_THING_CLASSES",
    "num_stuff_classes": _NODE + "NUM_STUFF_CLASSES",
    "quality_threshold_things": _NODE + "MERGE.QUALITY_THRESH_THINGS",
    "quality_threshold_stuff": _NODE + "MERGE.QUALITY_THRESH_STUFF",
    "overlap_threshold_things": _NODE + "MERGE.OVERLAP_THRESH_THINGS",
    "overlap_threshold_stuff": _NODE + "MERGE.OVERLAP_THRESH_STUFF",
    "max_per_img": "TEST.DETECTIONS_PER_IMAGE",
    "test_cfg.max_per_img": "TEST.DETECTIONS_PER_IMAGE",
    "transformer.encoder.num_layers": _NODE + "NUM_ENCODER_LAYERS",
    "transformer.decoder.num_layers": _NODE + "NUM_DECODER_LAYERS",
    "thing_transformer_head.num_decoder_layers": _NODE + "NUM_THING_BLOCKS",
    "stuff_transformer_head.num_decoder_layers": _NODE + "NUM_STUFF_BLOCKS",
    "loss_cls.loss_weight": _NODE + "CLASS_WEIGHT",
    "loss_bbox.loss_weight": _NODE + "L1_WEIGHT",
    "loss_iou.loss_weight": _NODE + "GIOU_WEIGHT",
    "loss_mask.loss_weight": _NODE + "DICE_WEIGHT",
}
# Options without an effect, or with a single value that works.
_FIXED_OPTIONS = ("num_classes", "use_argmax", "datasets", "sync_cls_avg_factor", "with_box_refine", "as_two_stage")
_SWIN_OPTIONS = ("embed_dim", "depths", "num_heads", "window_size")


def replay(case: Case, compare: Comparison, tmp_path: Path) -> None:
    """Run the case with our code and compare everything that was recorded."""
    kind = case.spec["kind"]
    if kind == "inference":
        return _replay_inference(case, compare, _build(case, tmp_path))
    if kind == "losses":
        return _replay_losses(case, compare, _build(case, tmp_path))
    assert kind == "module", f"unknown kind {kind!r}"
    if "padding_mask" in case.outputs:
        return _replay_padded_batch(case, compare, _build(case, tmp_path))
    if "s0/value" in case.inputs:
        return _replay_deform_attn(case, compare)
    if "s0/thing_scores" in case.inputs:
        return _replay_merging(case, compare)
    if "network_input_0" in case.outputs:
        return _replay_preprocess(case, compare)
    return _replay_backbone(case, compare)


def _close(case: Case, compare: Comparison, name: str, actual: Tensor, tolerance: float | None = None) -> None:
    """The tolerance is relative to the array's largest magnitude."""
    rtol, atol = case.spec["tolerance"]["rtol"], case.spec["tolerance"]["atol"]
    scale = np.abs(compare.expected[name]).max(initial=0.0) if name in compare else 0.0
    compare.close(name, actual, rtol=rtol, atol=max(atol, (tolerance or 0.0) * float(scale)))


def _config(case: Case) -> CfgNode:
    """Our config of the model that the case names, "r50", "pvtv2b0", "swinl" or the like."""
    config = case.spec["config"]
    name = str(config.get("model", case.spec["source"].split("configs/")[-1])).lower()
    pvt, resnet = re.search(r"pvt.*?b(\d)", name), re.search(r"r(50|101)", name)
    if pvt:
        cfg = model_zoo.get_config(f"PanopticSegFormer/PVTv2_B{pvt[1]}_2x.yaml")
    elif "swin" in name:
        cfg = model_zoo.get_config("PanopticSegFormer/Swin_L_2x.yaml")
    else:
        assert resnet, f"unknown model {name!r}"
        cfg = model_zoo.get_config(f"PanopticSegFormer/R_{resnet[1]}_2x.yaml")
    for key, value in _head_options(case).items():
        cfg.merge_from_list([key, value])
    if "swin" in name and "config" in config:
        for option in _SWIN_OPTIONS:
            cfg.MODEL.SWIN[option.upper()] = config["config"][option]
        cfg.MODEL.SWIN.OUT_FEATURES = [f"p{i}" for i in config["config"]["out_indices"]]
    cfg.MODEL.DEVICE = case.device
    return cfg


def _head_options(case: Case) -> dict:
    """Our keys and the values of the options that the case overrides, which may be nested."""
    pending, options = list(case.spec["config"].get("head", {}).items()), {}
    for name, value in pending:
        if isinstance(value, dict):
            pending += [(f"{name}.{key}", inner) for key, inner in value.items()]
        elif name not in _FIXED_OPTIONS:
            options[_HEAD_OPTIONS[name]] = value
    return options


def _build(case: Case, tmp_path: Path) -> nn.Module:
    """The model in evaluation mode, loaded from a file as the authors save it."""
    state_dict = case.state_dict()
    for edit, apply in (("scale", np.multiply), ("shift", np.add)):
        for pattern, value in case.spec["config"].get(edit, {}).items():
            for name in fnmatch.filter(state_dict, pattern):
                state_dict[name] = apply(state_dict[name], np.asarray(value)).astype(state_dict[name].dtype)
    weights = {name: torch.from_numpy(np.asarray(value)) for name, value in state_dict.items()}
    model = build_model(_config(case)).to(case.dtype).eval()
    for name in case.spec["derived"]:
        weights[name] = model.state_dict()[name]
    file = tmp_path / "epoch_24.pth"
    torch.save({"meta": {"epoch": 24, "mmcv_version": "1.3.4"}, "state_dict": weights}, file)
    PentamaskCheckpointer(model).load(str(file))
    return model


def _image(case: Case, name: str) -> Tensor:
    """(3, H, W) in the model's precision from the recorded (H, W, 3) uint8."""
    return case.input(name).permute(2, 0, 1).to(case.dtype)


def _replay_inference(case: Case, compare: Comparison, model: nn.Module) -> None:
    height, width = case.inputs["ori_shape"].tolist()
    image = _image(case, "image")
    seen: dict = {}
    model.encoder.neck.register_forward_hook(lambda m, x, y: seen.update(neck=y))
    model.thing_mask_decoder.register_forward_hook(lambda m, x, y: seen.update(things=(x, y)))
    model.stuff_mask_decoder.register_forward_hook(lambda m, x, y: seen.update(stuff=(x, y)))
    model.encoder.register_forward_hook(lambda m, x, y: seen.update(memory=y))
    model.location_decoder.register_forward_hook(lambda m, x, y: seen.update(locations=y))
    with torch.no_grad():
        result = model([{"image": image, "height": height, "width": width}])[0]
        things = model.thing_mask_decoder(*seen["things"][0][:3], with_block_masks=True)[1]
        tokens, shapes = seen["stuff"][0][1:3]
        stuff_logits, stuff = model.decode_stuff(tokens, shapes, with_block_masks=True)

    locations = seen["locations"]
    for i, level in enumerate(seen["neck"]):
        _close(case, compare, f"neck_{i}", level[0, :12])
    _close(case, compare, "memory", tokens[:, :12])
    _close(case, compare, "cls_logits_last", locations.logits[-1, 0])
    _close(case, compare, "cls_logits", locations.logits[:, 0, :24])
    _close(case, compare, "boxes", locations.boxes[:, 0])
    # The boxes that the last layer corrects, before their sigmoid.
    _close(case, compare, "reference_last", inverse_sigmoid(locations.boxes[-2, 0]))
    _close(case, compare, "query_last", locations.queries[0, :24])
    scores, index = locations.logits[-1, 0].sigmoid().flatten().topk(model.max_things)
    queries, labels = index // model.num_thing_classes, index % model.num_thing_classes
    compare.equal("topk_query", queries)
    compare.equal("topk_labels", labels)
    boxes = output_boxes(locations.boxes[-1, 0, queries], tuple(image.shape[1:]), (height, width))
    _close(case, compare, "topk_boxes_scores", torch.cat([boxes, scores[:, None]], dim=1))
    _close(case, compare, "thing_masks", things[-1])
    _close(case, compare, "thing_masks_layers", torch.stack(things[:-1])[:, ::10])
    _close(case, compare, "stuff_masks", stuff[-1])
    _close(case, compare, "stuff_masks_layers", torch.stack(stuff[:-1])[:, ::6])
    _close(case, compare, "stuff_logits", stuff_logits[-1])
    # What inference used does not depend on whether the blocks' masks were asked for.
    torch.testing.assert_close(seen["things"][1][1][-1], things[-1])
    _compare_results(case, compare, "", result["instances"], *result["panoptic_seg"])


def _compare_results(
    case: Case, compare: Comparison, prefix: str, instances: Instances, panoptic: Tensor, segments: list[dict]
) -> None:
    """Final outputs, as far as they are recorded."""
    if f"{prefix}instance_labels" in compare:
        _compare_instances(case, compare, prefix, instances)
    if f"{prefix}panoptic_category" in compare:
        _compare_panoptic(compare, prefix, panoptic, segments)


def _compare_instances(case: Case, compare: Comparison, prefix: str, instances: Instances) -> None:
    """Instances of equal scores, which have no order in the original, are compared in one of ours."""
    boxes_scores = torch.cat([instances.pred_boxes.tensor, instances.scores[:, None]], dim=1)
    found = _canonical_order(boxes_scores, instances.pred_classes)
    expected = {name: compare.expected.get(prefix + name) for name in ("instance_boxes_scores", "instance_labels")}
    order = _canonical_order(*(torch.from_numpy(array) for array in expected.values()))
    for name in ("instance_boxes_scores", "instance_labels", "instance_masks"):
        if prefix + name in compare:
            compare.expected[prefix + name] = compare.expected[prefix + name][order]
    _close(case, compare, f"{prefix}instance_boxes_scores", boxes_scores[found])
    compare.equal(f"{prefix}instance_labels", instances.pred_classes[found])
    compare.pixels(f"{prefix}instance_masks", instances.pred_masks[found], 1e-3, per_item=True)


def _compare_panoptic(compare: Comparison, prefix: str, panoptic: Tensor, segments: list[dict]) -> None:
    """The panoptic map and its segments, instance numbers up to renaming."""
    metadata = MetadataCatalog.get("coco_2017_val_panoptic")
    ids = {label: i for i, label in metadata.thing_dataset_id_to_contiguous_id.items()}
    ids |= {label: i for i, label in metadata.stuff_dataset_id_to_contiguous_id.items()}
    category, instance, rows = torch.zeros_like(panoptic), torch.zeros_like(panoptic), []
    for segment in segments:
        pixels = panoptic == segment["id"]
        # Instance numbers follow the order of the scores.
        number = int(np.bincount(compare.expected[f"{prefix}panoptic_instance"][pixels.cpu()]).argmax())
        assert (number > 0) == segment["isthing"], f"{prefix}: instance number {number} of {segment}"
        category[pixels], instance[pixels] = ids[segment["category_id"]], number
        rows.append((ids[segment["category_id"]], number, segment["area"]))
    compare.pixels(f"{prefix}panoptic_category", category, 1e-3)
    compare.pixels(f"{prefix}panoptic_instance", instance, 1e-3)
    rows, expected_rows = np.array(sorted(rows)).reshape(-1, 3), compare.expected[f"{prefix}segments"]
    compare.expected[f"{prefix}segments"] = np.array(sorted(map(tuple, expected_rows.tolist()))).reshape(-1, 3)
    # Areas may differ by the pixels whose mask value is 0.5 up to rounding.
    same_area = compare.expected[f"{prefix}segments"][:, 2:] if len(rows) == len(expected_rows) else rows[:, 2:]
    close_area = len(rows) == len(expected_rows) and (abs(rows[:, 2:] - same_area) <= 1e-3 * panoptic.numel()).all()
    compare.equal(f"{prefix}segments", np.concatenate([rows[:, :2], same_area if close_area else rows[:, 2:]], axis=1))


def _canonical_order(boxes_scores: Tensor, labels: Tensor) -> np.ndarray:
    """Best score first; among equal scores by label, then box."""
    boxes, scores = boxes_scores.cpu()[:, :4].numpy().round(3), boxes_scores.cpu()[:, 4].numpy().round(9)
    return np.lexsort((*boxes.T[::-1], labels.cpu().numpy(), -scores))


def _replay_losses(case: Case, compare: Comparison, model: nn.Module) -> None:
    image = _image(case, "image")
    instances = Instances(tuple(image.shape[1:]))
    instances.gt_boxes = Boxes(case.input("gt_boxes"))
    instances.gt_classes = case.input("gt_labels")
    instances.gt_masks = BitMasks(case.input("gt_masks"))
    inputs = [{"image": image, "instances": instances}]
    seen: dict = {}
    model.location_decoder.register_forward_hook(lambda m, x, y: seen.update(locations=y))
    model.thing_mask_decoder.register_forward_hook(lambda m, x, y: seen.update(masks=y[1]))
    # Evaluation mode, that is without dropout, but with losses.
    model.training = True
    losses = model(inputs)
    total = sum(losses.values())
    total.backward()

    for name, loss in losses.items():
        _close(case, compare, f"loss/{name}", loss)
    _close(case, compare, "total", total)
    parameters = dict(model.named_parameters())
    for name in [n.removeprefix("grad_norm/") for n in case.outputs if n.startswith("grad_norm/")]:
        # The branches that the released code trains with weight 0 do not exist here.
        head = compare.expected[f"grad_head/{name}"]
        parameter = None if re.match(UNUSED, name) else parameters[KEY_RULES.rename(name)]
        grad = torch.zeros(len(head)) if parameter is None else parameter.grad
        compare.close(f"grad_norm/{name}", grad.norm(), rtol=case.spec["tolerance"]["grad_rtol"], atol=1e-12)
        atol = case.spec["tolerance"]["grad_rtol"] * float(np.abs(head).max(initial=0.0))
        compare.close(f"grad_head/{name}", grad.flatten()[:8], rtol=0.0, atol=atol)

    locations = seen["locations"]
    things, _ = model.targets(inputs[0])
    matches = match_locations(locations, [things], model.weights)
    for i, layer in enumerate(matches):
        compare.equal(f"match/layer{i}", torch.stack(layer[0], dim=1))
    queries = matches[-1][0][0]
    compare.equal("match/filtered_queries", queries)
    pairs = match_masks(locations, 0, queries, seen["masks"][-1], things, model.weights)
    compare.equal("match/masks", torch.stack(pairs, dim=1))


def _replay_padded_batch(case: Case, compare: Comparison, model: nn.Module) -> None:
    images = [_image(case, name) for name in sorted(case.inputs) if name.startswith("image_")]
    images = ImageList.from_tensors([(x - model.pixel_mean) / model.pixel_std for x in images])
    with torch.no_grad():
        memory, locations = model.encode(images)
    length = sum(h * w for h, w in memory.shapes[:-1])
    padding = memory.padding[:, :length]
    _close(case, compare, "cls_logits", locations.logits[-1, :, ::4])
    _close(case, compare, "boxes", locations.boxes[:, :, ::2])
    _close(case, compare, "memory", memory.tokens[:, :length, :8].masked_fill(padding[..., None], 0.0))
    compare.equal("padding_mask", padding)


def _replay_deform_attn(case: Case, compare: Comparison) -> None:
    for s in sorted({name.split("/")[0] for name in case.inputs}):
        names = ("value", "sampling_locations", "attention_weights")
        value, locations, weights = (case.input(f"{s}/{name}").requires_grad_() for name in names)
        shapes = case.input(f"{s}/spatial_shapes")
        starts = torch.cat([shapes.new_zeros(1), shapes.prod(dim=1).cumsum(dim=0)[:-1]])
        output = ms_deform_attn(value, shapes, starts, locations, weights)
        grads = torch.autograd.grad(output, (value, locations, weights), case.input(f"{s}/grad_output"))
        _close(case, compare, f"{s}/output", output)
        for name, grad in zip(names, grads):
            _close(case, compare, f"{s}/grad_{name}", grad)


def _replay_merging(case: Case, compare: Comparison) -> None:
    for s in sorted({name.split("/")[0] for name in case.inputs}):
        names = ("thing_scores", "thing_labels", "thing_boxes", "thing_masks", "stuff_scores", "stuff_masks")
        scores, labels, boxes, masks, stuff_scores, stuff_masks = (case.input(f"{s}/{name}") for name in names)
        size = tuple(case.inputs[f"{s}/ori_shape"].tolist())
        instances = instances_from_masks(score_masks(masks, scores, size), boxes, labels)
        panoptic, segments = merge(
            torch.cat([masks, stuff_masks]),
            torch.cat([scores, stuff_scores]),
            torch.cat([labels, torch.arange(len(stuff_scores)) + 80]),
            size,
            num_thing_classes=80,
            options=_merge_options(case),
        )
        _compare_results(case, compare, f"{s}/", instances, panoptic, segments)


def _merge_options(case: Case) -> MergeOptions:
    keys = {key.removeprefix(f"{_NODE}MERGE."): value for key, value in _head_options(case).items()}
    return MergeOptions(**{key.lower(): value for key, value in keys.items() if "." not in key})


def _replay_preprocess(case: Case, compare: Comparison) -> None:
    cfg = model_zoo.get_config("PanopticSegFormer/R_50_1x.yaml")
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = sorted(case.spec["config"]["img_scale"])
    (resize,) = build_augmentation(cfg, is_train=False)
    mean, std = (torch.tensor(x)[:, None, None] for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    for name in case.inputs:
        i = name.removeprefix("image_")
        image = case.inputs[name]
        resized = resize.get_transform(image).apply_image(image)
        (height, width), (new_height, new_width) = image.shape[:2], resized.shape[:2]
        _close(case, compare, f"network_input_{i}", (torch.from_numpy(resized).to(mean).permute(2, 0, 1) - mean) / std)
        _close(case, compare, f"scale_factor_{i}", torch.tensor([new_width / width, new_height / height] * 2))
        compare.equal(f"img_shape_{i}", [new_height, new_width])
        compare.equal(f"pad_shape_{i}", [new_height, new_width])


def _replay_backbone(case: Case, compare: Comparison) -> None:
    """A backbone alone, without the prefix of its name in the model."""
    cfg = _config(case)
    backbone = build_backbone(cfg, ShapeSpec(channels=3)).to(case.dtype).eval()
    derived = {name: value for name, value in backbone.state_dict().items() if name in case.spec["derived"]}
    weights = {name: torch.from_numpy(np.asarray(value)) for name, value in case.state_dict().items()}
    backbone.load_state_dict(weights | derived)
    mean, std = (torch.tensor(x, dtype=case.dtype)[:, None, None] for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    for name in case.inputs:
        with torch.no_grad():
            outputs = backbone(((_image(case, name) - mean) / std)[None])
        stages = sorted(key for key in case.outputs if key.startswith(f"{name}/"))
        for stage, output in zip(stages, outputs.values(), strict=True):
            _close(case, compare, stage, output[0])
