"""What Panoptic SegFormer's explanation shows is what its queries and the merging do."""

import torch
from detectron2.modeling import build_model

IMAGE = torch.arange(3 * 64 * 96).remainder(251).view(3, 64, 96).to(torch.uint8)


def test_samples_attention_and_masks(tiny_cfg):
    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    batch = [{"image": IMAGE}, {"image": IMAGE.repeat(1, 2, 2)}]  # there is padding in the first
    with torch.no_grad():
        instances = model(batch)[0]["instances"]
    parts = model.explain(batch, max_instances=2)[0]
    points, attention, masks = parts["sampling"], parts["attention"], parts["masks"]
    torch.testing.assert_close(masks.instances.scores, instances.scores[:2], rtol=1e-3, atol=1e-5)
    assert len(points.points) == 2 and points.points[0].shape == (4 * 4 * 4, 2)  # heads, levels, points
    torch.testing.assert_close(torch.stack(list(points.weights)).sum(dim=1), torch.full((2,), 4.0))
    assert points.levels[0][:8].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [tuple(x.shape) for x in attention.values] == [(2, 8, 12), (2, 4, 6), (2, 2, 3)]
    assert attention.names == ["stride 8", "stride 16", "stride 32"]
    torch.testing.assert_close(sum(x.sum(dim=(1, 2)) for x in attention.values), torch.ones(2))
    assert masks.names == ["block 1", "final"] and masks.values[1].shape == (2, 8, 12)


def test_merging_tells_what_each_mask_got(tiny_cfg):
    torch.manual_seed(0)
    node = tiny_cfg.MODEL.PANOPTIC_SEGFORMER
    node.MERGE.QUALITY_THRESH_THINGS = node.MERGE.QUALITY_THRESH_STUFF = 0.0
    model = build_model(tiny_cfg).eval()
    for decoder in (model.thing_mask_decoder, model.stuff_mask_decoder):
        torch.nn.init.constant_(decoder.tail.linear.bias, 0.7)  # masks that cover most of the image
    with torch.no_grad():
        id_map, segments = model([{"image": IMAGE}])[0]["panoptic_seg"]
    merging = model.explain([{"image": IMAGE}])[0]["merging"]
    assert len(merging.masks) == len(merging.reasons) == 4 + 2
    assert merging.scores.tolist() == sorted(merging.scores.tolist(), reverse=True)
    assert torch.equal(merging.taken.any(dim=0), id_map > 0) and (merging.taken.sum(dim=0) <= 1).all()
    got = [i for i, reason in enumerate(merging.reasons) if not reason]
    assert {int(x) for x in merging.labels[got]} == {s["category_id"] for s in segments}
    assert set(merging.reasons) - {""} <= {"too much of it is taken", "all of it is taken", "no pixel above 0.5"}
    assert (merging.taken.flatten(1).any(dim=1) == torch.tensor([not reason for reason in merging.reasons])).all()


def test_other_rules_have_no_order(tiny_cfg):
    tiny_cfg.MODEL.PANOPTIC_SEGFORMER.MERGE.RULE = "maskformer"
    assert "merging" not in build_model(tiny_cfg).eval().explain([{"image": IMAGE}])[0]
