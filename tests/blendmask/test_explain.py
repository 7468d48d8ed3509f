"""What BlendMask's explanation shows is what its masks are made of."""

import pytest
import torch
from detectron2.modeling import build_model

SIZE = (64, 80)


@pytest.fixture
def model(tiny_cfg):
    torch.manual_seed(0)
    tiny_cfg.MODEL.FCOS.INFERENCE_TH_TEST, tiny_cfg.MODEL.FCOS.POST_NMS_TOPK_TEST = 0.0, 4
    tiny_cfg.MODEL.FCOS.NORM = "GN"
    return build_model(tiny_cfg).eval()


def test_the_blend_of_the_bases_is_the_mask(model):
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    found = []
    blend = model.blender.inference
    model.blender.inference = lambda *args: found.append(blend(*args)) or found[-1]
    model([{"image": image}])
    parts = model.explain([{"image": image}, {"image": image[:, :48]}], max_instances=3)[0]
    order = found[0][0].scores.argsort(descending=True, stable=True)[:3]
    bases, attention, total = parts["bases"], parts["attention"], parts["blend"]
    assert bases.values.shape == (4, 16, 24) and bases.extent == (64, 96)  # padded by 16, of stride 4
    assert parts["semantic"].values.shape == (4, 8, 12)
    torch.testing.assert_close(total.result, found[0][0].pred_masks[order, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(total.instances.scores, found[0][0].scores[order])
    torch.testing.assert_close(torch.stack(list(attention.values)).sum(dim=0), torch.ones(3, 7, 7))
    _, _, products = total.terms(2)
    torch.testing.assert_close(products.sum(dim=0).sigmoid(), total.result[2])


def test_images_without_instances_have_their_bases(model):
    (parts,) = model.explain([{"image": torch.zeros(3, *SIZE)}], min_score=2.0)
    assert len(parts["blend"].result) == 0 and parts["bases"].values.shape == (4, 16, 24)


def test_no_hook_is_left_and_training_mode_is_refused(model):
    model.explain([{"image": torch.zeros(3, *SIZE)}])
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="call model.eval"):
        model.train().explain([{"image": torch.zeros(3, *SIZE)}])
