import torch

from pentamask.yolact.matching import match_priors

NO_CROWD = torch.zeros(0, 4)


def priors_of(*corners):
    """(cx, cy, w, h) of xyxy boxes in hundredths."""
    boxes = torch.tensor(corners, dtype=torch.float64) / 100
    return torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), dim=1)


def boxes_of(*corners):
    return torch.tensor(corners, dtype=torch.float64).reshape(-1, 4) / 100


def test_positive_neutral_and_background():
    priors = priors_of((0, 0, 10, 10), (0, 0, 10, 6), (0, 0, 10, 4.5), (0, 0, 10, 3), (50, 50, 60, 60))
    labels, index = match_priors(boxes_of((0, 0, 10, 10)), torch.tensor([4]), NO_CROWD, priors)
    assert labels.tolist() == [5, 5, -1, 0, 0]
    assert index.tolist() == [0] * 5


def test_every_object_gets_a_prior_of_its_own():
    """Both objects overlap the first prior most: it goes to the nearer one, the other takes its second best."""
    priors = priors_of((0, 0, 10, 10), (20, 0, 30, 10))
    boxes = boxes_of((0, 0, 10, 12), (0, 0, 25, 10))
    labels, index = match_priors(boxes, torch.tensor([0, 1]), NO_CROWD, priors)
    assert index.tolist() == [0, 1]
    assert labels.tolist() == [1, 2]  # although the IoU of the second pair is below both thresholds


def test_ties_go_to_the_first_object():
    priors = priors_of((0, 0, 10, 10), (0, 0, 10, 9), (0, 0, 10, 8))
    _, index = match_priors(boxes_of((0, 0, 10, 10), (0, 0, 10, 10)), torch.tensor([0, 1]), NO_CROWD, priors)
    assert index.tolist() == [0, 1, 0]


def test_crowds_only_neutralise_what_is_not_positive():
    priors = priors_of((0, 0, 10, 10), (40, 0, 50, 10), (45, 0, 55, 10))
    labels, _ = match_priors(
        boxes_of((0, 0, 10, 10)), torch.tensor([2]), boxes_of((0, 0, 50, 50)), priors, crowd_overlap=0.7
    )
    assert labels.tolist() == [3, -1, 0]  # the last has half of its area in the crowd


def test_an_image_without_objects_is_background_outside_crowds():
    priors = priors_of((0, 0, 10, 10), (40, 0, 50, 10))
    labels, index = match_priors(boxes_of(), torch.zeros(0, dtype=torch.int64), boxes_of((0, 0, 20, 20)), priors)
    assert labels.tolist() == [-1, 0] and index.tolist() == [0, 0]
