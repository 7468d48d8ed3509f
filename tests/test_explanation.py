"""The kinds of an explanation, and the recording of modules."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from pentamask.explanation import WeightedSum, best, check_evaluating, described, recorded


def test_calls_are_recorded_while_asked_for_only():
    first, second = nn.Linear(2, 3), nn.ReLU()
    x = torch.ones(1, 2)
    with recorded(first, second) as (calls, others):
        y = second(first(x))
        first(2 * x)
    first(x)
    assert len(calls) == 2 and calls[0][0][0] is x and others[0][1] is y
    assert not first._forward_hooks and not second._forward_hooks


def test_hooks_go_after_an_error_too():
    module = nn.ReLU()
    with pytest.raises(TypeError), recorded(module):
        module(None)
    assert not module._forward_hooks


def test_the_best_instances():
    scores = torch.tensor([0.2, 0.9, 0.5, 0.7])
    assert best(scores, 3, 0.0).tolist() == [1, 3, 2] and best(scores, 3, 0.6).tolist() == [1, 3]
    instances = Instances(
        (4, 6), pred_boxes=Boxes(torch.eye(4)), scores=scores, pred_classes=torch.arange(4), more=scores
    )
    shown = described(instances, torch.tensor([3]))
    assert shown.image_size == (4, 6) and shown.pred_classes.tolist() == [3] and not shown.has("more")


def test_a_model_in_training_mode_explains_nothing():
    with pytest.raises(ValueError, match=r"call model\.eval"):
        check_evaluating(nn.ReLU())
    check_evaluating(nn.ReLU().eval())


@pytest.mark.parametrize("shared", [True, False])
def test_terms_of_a_weighted_sum(shared):
    maps, result = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]), torch.zeros(2, 1, 2)
    if shared:
        total = WeightedSum("", None, maps, torch.tensor([[1.0, -1.0], [2.0, 0.5]]), result)
    else:
        weights = torch.tensor([2.0, 0.5]).view(2, 1, 1).expand(2, 1, 2)
        total = WeightedSum("", None, torch.stack([0 * maps, maps]), torch.stack([weights, weights]), result)
    _, _, products = total.terms(1)
    assert products.tolist() == [[[2.0, 4.0]], [[1.5, 2.0]]]
