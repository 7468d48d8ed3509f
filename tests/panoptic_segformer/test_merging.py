"""Merging of hand-made masks, rule by rule."""

import pytest
import torch

from pentamask.panoptic_segformer.merging import MERGE_RULES, MergeOptions, merge, score_masks

SIZE = (4, 8)


def masks(*columns, value=1.0):
    """Masks of SIZE that fill columns a to b - 1."""
    out = torch.zeros((len(columns), *SIZE))
    for mask, (a, b) in zip(out, columns):
        mask[:, a:b] = value
    return out


def merge_columns(columns, scores, labels, rule="mask_wise", **options):
    """First row of the ids, and (label, area) of the segments; labels from 2 on are stuff."""
    arguments = (masks(*columns), torch.tensor(scores), torch.tensor(labels), SIZE, 2)
    ids, infos = merge(*arguments, MergeOptions(rule, **options))
    return ids[0].tolist(), [(x["category_id"], x["area"]) for x in infos]


def test_score_is_class_times_squared_mean_inside():
    scored = score_masks(masks((0, 4), value=0.8), torch.tensor([0.5]), SIZE)
    assert scored.inside.sum() == 16
    torch.testing.assert_close(scored.scores, torch.tensor([0.5 * (16 * 0.8 / 17) ** 2]))
    assert score_masks(masks((0, 4), value=0.5), torch.ones(1), SIZE).scores == 0  # 0.5 is outside


def test_low_resolution_masks_are_stretched_over_the_output():
    low = torch.tensor([[[1.0, 1.0, 0.0, 0.0]] * 2])
    assert score_masks(low, torch.ones(1), (8, 16)).inside[0, 0].tolist() == [True] * 8 + [False] * 8


def test_better_masks_come_first():
    ids, infos = merge_columns([(0, 5), (3, 8)], [0.6, 0.9], [0, 1], overlap_thresh_things=0.5)
    assert ids == [2, 2, 2, 1, 1, 1, 1, 1]
    assert infos == [(1, 20), (0, 12)]


def test_ties_keep_the_order_of_the_masks():
    ids, _ = merge_columns([(0, 4), (3, 7), (4, 8)], [0.8, 0.8, 0.8], [0, 0, 2])
    assert ids == [1, 1, 1, 1, 2, 2, 2, 0]


def test_things_and_stuff_have_thresholds_of_their_own():
    columns, scores = [(0, 4), (3, 6), (5, 8)], [0.9, 0.8, 0.7]
    # A third of the second and of the third mask is taken.
    assert merge_columns(columns, scores, [0, 0, 0])[0] == [1, 1, 1, 1, 2, 2, 3, 3]
    assert merge_columns(columns, scores, [2, 3, 4])[0] == [1, 1, 1, 1, 0, 2, 2, 2]
    options = {"quality_thresh_things": 0.75, "quality_thresh_stuff": 0.0}
    assert merge_columns(columns, scores, [0, 0, 3], **options)[0] == [1, 1, 1, 1, 0, 2, 2, 2]


def test_limits_belong_to_what_is_kept():
    """Skipped below the score threshold and above the overlap threshold; at both, kept."""
    scored = score_masks(masks((0, 8)), torch.tensor([0.5]), SIZE)
    limit = float(scored.scores)
    assert merge_columns([(0, 8)], [0.5], [0], quality_thresh_things=limit)[1] == [(0, 32)]
    assert merge_columns([(0, 4), (2, 6)], [0.9, 0.8], [0, 0], overlap_thresh_things=0.5)[1] == [(0, 16), (0, 8)]


def test_instances_are_numbered_and_stuff_is_not():
    _, infos = merge(masks((0, 2), (2, 4), (4, 8)), torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 3]), SIZE, 2)
    assert [(x["id"], x["isthing"], x.get("instance_id")) for x in infos] == [
        (1, True, 0),
        (2, True, 1),
        (3, False, None),
    ]


@pytest.mark.parametrize("rule", MERGE_RULES)
def test_nothing_to_merge(rule):
    for columns, scores in (([], []), ([(0, 0)], [0.9]), ([(0, 8)], [0.01])):
        ids, infos = merge_columns(columns, scores, [0] * len(columns), rule)
        assert set(ids) == {0} and infos == []


def test_pixel_argmax_ignores_class_scores():
    stacked = torch.cat([masks((0, 5), value=0.7), masks((3, 8), value=0.9), masks((0, 8), value=2.0)])
    arguments = (stacked, torch.tensor([0.9, 0.4, 0.1]), torch.tensor([0, 1, 2]), SIZE, 2)
    ids, infos = merge(*arguments, MergeOptions("pixel_argmax"))  # the third is below the class threshold
    assert ids[0].tolist() == [1, 1, 1, 2, 2, 2, 2, 2]
    assert [(x["category_id"], x["area"]) for x in infos] == [(0, 12), (1, 20)]


def test_maskformer_weighs_by_class_scores_and_drops_what_is_mostly_covered():
    stacked = torch.cat([masks((0, 5), value=0.7), masks((3, 8), value=0.9), masks((0, 1), value=0.3)])
    arguments = (stacked, torch.tensor([0.9, 0.4, 0.9]), torch.tensor([0, 1, 0]), SIZE, 2)
    ids, _ = merge(*arguments, MergeOptions("maskformer", keep_fraction=0.6))
    assert ids[0].tolist() == [1, 1, 1, 1, 1, 2, 2, 2]
    ids, _ = merge(*arguments, MergeOptions("maskformer", keep_fraction=0.8))  # 3 of 5 columns are left of the second
    assert ids[0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_stuff_of_one_class_is_one_segment():
    ids, infos = merge_columns([(0, 3), (4, 8)], [0.9, 0.8], [2, 2], "maskformer")
    assert ids == [1, 1, 1, 0, 1, 1, 1, 1] and infos == [(2, 28)]


def test_unknown_rule():
    with pytest.raises(ValueError, match='choose "mask_wise", "pixel_argmax" or "maskformer"'):
        merge_columns([(0, 8)], [0.9], [0], "wrong")
