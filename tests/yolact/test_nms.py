import pytest
import torch
from torchvision.ops import batched_nms, nms

from pentamask.yolact import cross_class_fast_nms, fast_nms
from pentamask.yolact import nms as implementation
from pentamask.yolact.nms import fast_nms_of_fixed_size, greedy_nms

# Three boxes in a row, each overlapping its neighbours by an IoU of 0.6: greedy NMS keeps the first and the last.
CHAIN = torch.tensor([[0.0, 0, 1, 1], [0.25, 0, 1.25, 1], [0.5, 0, 1.5, 1]])


def random_boxes(n, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, generator=generator)
    boxes = torch.cat((corners, corners + 0.1 + 0.4 * torch.rand(n, 2, generator=generator)), dim=1)
    return boxes, torch.rand(classes, n, generator=generator)


def test_a_removed_box_still_removes_others():
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    index, classes, kept = fast_nms(CHAIN, scores, 0.5)
    assert index.tolist() == [0] and classes.tolist() == [0] and kept.tolist() == scores[0, :1].tolist()
    assert nms(CHAIN, scores[0], 0.5).tolist() == [0, 2]


@pytest.mark.parametrize("n", [30, 120])  # fewer boxes and more boxes than the top-k's pairs
def test_against_the_definition(n):
    boxes, scores = random_boxes(n, 4)
    expected = []
    for c in range(4):
        order = scores[c].argsort(descending=True)[:25].tolist()
        for rank, i in enumerate(order):
            overlaps = [nms(boxes[[j, i]], torch.tensor([1.0, 0.5]), 0.4).tolist() == [0] for j in order[:rank]]
            if not any(overlaps):
                expected.append((scores[c, i].item(), i, c))
    expected.sort(reverse=True)
    index, classes, kept = fast_nms(boxes, scores, 0.4, top_k=25)
    assert list(zip(kept.tolist(), index.tolist(), classes.tolist())) == expected


def test_many_boxes_give_the_same(monkeypatch):
    boxes, scores = random_boxes(300, 5)
    boxes[:20, 2:] = boxes[:20, :2]  # no area
    expected = fast_nms(boxes, scores, 0.4, top_k=40)
    monkeypatch.setattr(implementation, "_MANY", 0)
    assert all(map(torch.equal, fast_nms(boxes, scores, 0.4, top_k=40), expected))


@pytest.mark.parametrize("n", [0, 3, 300])
def test_fixed_sizes_give_the_same(n):
    boxes, scores = random_boxes(n, 5)
    boxes[:20, 2:] = boxes[:20, :2]  # no area
    expected = fast_nms(boxes, scores, 0.4, top_k=40)
    assert all(map(torch.equal, fast_nms_of_fixed_size(boxes, scores, 0.4, top_k=40), expected))


def test_fixed_sizes_leave_out_negative_scores():
    boxes, scores = random_boxes(60, 3)
    index, classes, kept = fast_nms(boxes[:50], scores[:, :50], 0.4)
    scores[:, 50:] = -1.0
    found = fast_nms_of_fixed_size(boxes, scores, 0.4)
    assert all(map(torch.equal, found, (index, classes, kept)))


def test_keeps_a_part_of_what_greedy_nms_keeps():
    boxes, scores = random_boxes(80, 6, seed=1)
    index, classes, _ = fast_nms(boxes, scores)
    flat = batched_nms(boxes.repeat(6, 1), scores.flatten(), torch.arange(6).repeat_interleave(80), 0.5)
    assert set((classes * 80 + index).tolist()) < set(flat.tolist())


def test_an_iou_equal_to_the_threshold_stays_and_no_area_goes():
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1], [5, 5, 5, 6], [5, 5, 5, 6]])
    index, _, _ = fast_nms(boxes, torch.tensor([[0.9, 0.8, 0.7, 0.6]]), 0.5)
    assert index.tolist() == [0, 1, 2]


def test_cross_class_keeps_each_box_once():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0.9], [3, 3, 4, 4]])
    scores = torch.tensor([[0.5, 0.1, 0.3], [0.2, 0.9, 0.4]])
    index, classes, kept = cross_class_fast_nms(boxes, scores)
    assert index.tolist() == [1, 2] and classes.tolist() == [1, 1]
    torch.testing.assert_close(kept, torch.tensor([0.9, 0.4]))
    assert sorted(fast_nms(boxes, scores)[0].tolist()) == [0, 1, 2, 2]


def test_greedy_separates_classes_also_left_of_the_picture():
    boxes = torch.tensor([[-300.0, 0, -200, 99], [0, 0, 99, 99]])
    index, classes, _ = greedy_nms(boxes, torch.tensor([[0.9, 0.0], [0.0, 0.8]]))
    assert index.tolist() == [0, 1] and classes.tolist() == [0, 1]
    # With the pixel after the second corner: 100 x 100 and 50 x 100, an IoU of exactly 0.5.
    halves = torch.tensor([[0.0, 0, 99, 99], [0, 0, 49, 99]])
    assert greedy_nms(halves, torch.tensor([[0.9, 0.8]]))[0].tolist() == [0]


@pytest.mark.parametrize("suppress", [fast_nms, cross_class_fast_nms, greedy_nms])
def test_no_boxes(suppress):
    index, classes, scores = suppress(torch.zeros(0, 4), torch.zeros(3, 0))
    assert len(index) == len(classes) == len(scores) == 0


@pytest.mark.parametrize("top_k", [1, 7, 5000])
def test_many_boxes_keep_the_first_of_the_stable_order(top_k: int) -> None:
    """Scores of a few values, so that ties are cut; boxes that do not overlap, so that all of the top-k stay."""
    rng = torch.Generator().manual_seed(0)
    corners = torch.arange(3500.0)[:, None] * 10
    boxes = torch.cat([corners, corners, corners + 5, corners + 5], dim=1)
    scores = torch.randint(4, (3, len(boxes)), generator=rng) / 4
    index, classes, _ = fast_nms(boxes, scores, 0.5, top_k)
    for row in range(3):
        expected = scores[row].argsort(descending=True, stable=True)[:top_k]
        assert index[classes == row].tolist() == expected.tolist()
