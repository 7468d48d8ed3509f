"""Test-time augmentation: one view is plain inference, mirrored views are mirrored back, and results merge."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from thin_models import THIN_MODELS, build_thin, scenes
from torch import nn

from pentamask.engine.checks import BadInput
from pentamask.engine.trainer import Trainer
from pentamask.engine.tta import ModelWithTTA, merge_panoptic


@pytest.fixture(scope="module", params=THIN_MODELS)
def thin(request):
    return build_thin(request.param)


def same(a: object, b: object) -> bool:
    """Whether two results are equal, to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, Instances):
        return a.image_size == b.image_size and same(a.get_fields(), b.get_fields())
    if isinstance(a, Boxes):
        return torch.equal(a.tensor, b.tensor)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b


@torch.no_grad()
def test_one_view_that_changes_nothing_is_plain_inference(thin):
    cfg, model = thin
    image = scenes(1)[0]
    side = min(image.shape[1:])
    cfg = cfg.clone()
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = (side,), 1000, False
    inputs = [{"image": image, "height": 100, "width": 140}]
    plain, augmented = model(inputs), Trainer.build_tta_model(cfg, model)(inputs)
    assert len(plain[0]["instances"]) > 0 and same(plain, augmented)


@torch.no_grad()
def test_several_views(thin):
    """Results have the form of the model's and are of the picture's size; they hold what the mirrored picture's do."""
    _, model = thin
    image = scenes(1)[0]
    height, width = image.shape[1:]
    augmented = ModelWithTTA(model, min_sizes=[height, 96], max_size=400, flip=True, max_detections=20)
    (plain,), (merged,) = model([{"image": image}]), augmented([{"image": image}])
    assert merged.keys() == plain.keys()
    found = merged["instances"]
    assert 0 < len(found) <= 20 and found.image_size == (height, width)
    assert found.pred_masks.shape == (len(found), height, width) and found.pred_masks.dtype == torch.bool
    assert (found.scores[1:] <= found.scores[:-1]).all()
    if "panoptic_seg" in merged:
        ids, infos = merged["panoptic_seg"]
        assert [int((ids == info["id"]).sum()) for info in infos] == [info["area"] for info in infos]
        assert merged["sem_seg"].shape == plain["sem_seg"].shape
    assert not augmented.training and getattr(model, "roi_heads", None) is None or model.roi_heads.mask_on


class LeftHalf(nn.Module):
    """Finds the left half of any picture, with a score that is its width / 1000, and its mean as semantic score."""

    def forward(self, batched_inputs):
        (x,) = batched_inputs
        size = x["height"], x["width"]
        half = size[1] // 2
        mask = torch.zeros(size, dtype=torch.bool)
        mask[:, :half] = True
        found = Instances(size, scores=torch.tensor([x["image"].shape[2] / 1000]), pred_classes=torch.tensor([2]))
        found.pred_boxes, found.pred_masks = Boxes(torch.tensor([[0.0, 0, half, size[0]]])), mask[None]
        sem_seg = torch.zeros(1, *size)
        sem_seg[:, :, 0] = 1
        return [{"instances": found, "sem_seg": sem_seg}]


def test_views_are_mirrored_back_and_merged():
    model = ModelWithTTA(LeftHalf().eval(), min_sizes=[10, 20], max_size=100, flip=True)
    (result,) = model([{"image": torch.zeros(3, 10, 20, dtype=torch.uint8)}])
    found = result["instances"]
    # Left and right halves do not overlap; of the two sizes the larger one has the better score.
    assert sorted(found.pred_boxes.tensor.tolist()) == [[0, 0, 10, 10], [10, 0, 20, 10]]
    torch.testing.assert_close(found.scores, torch.tensor([0.04, 0.04]))
    for box, mask in zip(found.pred_boxes.tensor.int().tolist(), found.pred_masks):
        assert mask.nonzero()[:, 1].unique().tolist() == list(range(box[0], box[2]))
    assert result["sem_seg"][0, 0, [0, 1, 18, 19]].tolist() == [0.5, 0, 0, 0.5]


def segment(number: int, category: int, *, thing: bool, score: float) -> dict:
    return {"id": number, "isthing": thing, "category_id": category, "score": score, "area": 0}


def test_panoptic_maps_vote():
    """Three maps of six pixels: a thing that two see, one that a single map sees, and stuff everywhere else."""
    thing, stuff = (segment(1, 0, thing=True, score=0.9), segment(2, 5, thing=False, score=0.5))
    other = segment(1, 1, thing=True, score=0.95)
    maps = [
        (torch.tensor([[1, 1, 1, 2, 2, 0]]), [thing, stuff]),
        (torch.tensor([[1, 1, 2, 2, 2, 0]]), [{**thing, "score": 0.7}, stuff]),
        (torch.tensor([[2, 2, 2, 2, 1, 1]]), [other, stuff]),
    ]
    ids, infos = merge_panoptic(maps)
    assert ids.tolist() == [[1, 1, 2, 2, 2, 0]]
    assert infos == [{**thing, "id": 1, "area": 2}, {**stuff, "id": 2, "area": 3}]


def test_key_points_are_refused():
    model = LeftHalf()
    model.roi_heads = nn.Identity()
    model.roi_heads.keypoint_on = True
    with pytest.raises(BadInput, match="TEST.AUG.ENABLED.*key points"):
        ModelWithTTA(model, min_sizes=[10], max_size=100, flip=True)
