"""Every kind of part is drawn with what it says, whatever model it comes from."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pentamask.explanation import BoxLevels, InstanceMaps, Maps, OrderedMasks, Points, WeightedSum
from pentamask.visualize.explanation import draw_explanation

IMAGE = np.full((20, 30, 3), 100, np.uint8)
METADATA = Metadata(thing_classes=["cat", "dog"], stuff_classes=["sky", "sea"])
INSTANCES = Instances((20, 30), scores=torch.tensor([0.9, 0.5]), pred_classes=torch.tensor([1, 0]))
INSTANCES.pred_boxes = Boxes(torch.tensor([[2.0, 3.0, 12.0, 13.0], [10.0, 5.0, 28.0, 18.0]]))


def draw(**parts):
    return dict(draw_explanation(IMAGE, parts, METADATA))


def titles(figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def rendered(figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def test_maps_are_cut_to_the_image_and_the_strongest_are_shown():
    values = torch.arange(40.0).view(40, 1, 1).expand(40, 4, 4)
    (figure,) = draw(bases=Maps("Bases", values, (32.0, 32.0))).values()
    assert titles(figure) == [str(k) for k in range(5, 41)]  # 36 of 40
    assert figure.get_suptitle() == "Bases (the strongest 36 of 40)"
    assert figure.axes[1].get_xlim() == (0, 30) and figure.axes[1].get_ylim() == (20, 0)
    (figure,) = draw(signed=Maps("Signed", torch.tensor([[[-1.0, 1.0]]]), (20.0, 30.0), ["edge"])).values()
    assert titles(figure) == ["edge"]
    ax = figure.axes[1]
    box = ax.get_window_extent()
    pixels, middle = rendered(figure).astype(int), int(rendered(figure).shape[0] - (box.y0 + box.y1) / 2)
    left, right = pixels[middle, int(box.x0) + 8], pixels[middle, int(box.x1) - 8]
    assert left[2] > left[0] and right[0] > right[2]  # blue, red


def test_maps_of_instances_have_a_row_each():
    values = [torch.tensor([0.1, 0.3, 0.5, 2.0]).view(2, 1, 2), torch.ones(2, 3, 3)]
    (figure,) = draw(attention=InstanceMaps("A", INSTANCES, values, ["fine", "coarse"], notes=["x", "y"])).values()
    assert titles(figure) == [
        *("dog 90%, x", "fine, 0.10 to 0.30", "coarse, 1.00 to 1.00"),
        *("cat 50%, y", "fine, 0.50 to 2.00", "coarse, 1.00 to 1.00"),
    ]
    (figure,) = draw(weak=InstanceMaps("A", INSTANCES, [values[0] / 1000], ["weak"])).values()
    assert titles(figure)[1::2] == ["weak, 1.0e-04 to 3.0e-04", "weak, 5.0e-04 to 2.0e-03"]
    (figure,) = draw(masks=InstanceMaps("A", INSTANCES, values[:1], ["mask"], (20.0, 30.0))).values()
    assert titles(figure)[::2] == ["dog 90%", "cat 50%"] and figure.axes[1].get_xlim() == (0, 30)


def test_letters_of_wide_figures_are_larger():
    maps = [torch.ones(2, 3, 3)]
    (figure,) = draw(masks=InstanceMaps("A", INSTANCES, maps * 10, ["mask"] * 10)).values()
    assert figure.axes[0].title.get_fontsize() / figure.get_figwidth() == pytest.approx(7 / 11)
    names = Metadata(thing_classes=["cat", "a dog of an uncommonly long name"])
    (figure,) = dict(draw_explanation(IMAGE, {"x": InstanceMaps("A", INSTANCES, maps, ["m"])}, names)).values()
    assert titles(figure)[0] == "a dog of an uncommonly … 90%"


def test_sums_have_a_picture_for_each_instance():
    maps, result = torch.rand(10, 4, 4), torch.rand(2, 4, 4)
    weights = torch.linspace(-1, 1, 10).expand(2, 10)
    figures = draw(sum=WeightedSum("S", INSTANCES, maps, weights, result, (20.0, 30.0)))
    assert list(figures) == ["sum_1", "sum_2"] and figures["sum_2"].get_suptitle() == "S: cat 50%"
    shown = titles(figures["sum_1"])
    assert {"times -1.00", "times +1.00", "the other 2", "sum of all", "mask (sigmoid)"} <= set(shown)
    figures = draw(blend=WeightedSum("B", INSTANCES, torch.rand(2, 4, 5, 5), torch.rand(2, 4, 5, 5), result))
    assert titles(figures["blend_1"])[:4] == ["map 1", "map 2", "map 3", "map 4"]


def test_points_boxes_and_order():
    points = [torch.rand(6, 2) * 10, torch.rand(4, 2) * 10]
    levels = [torch.zeros(6, dtype=torch.int64), torch.ones(4, dtype=torch.int64)]
    weighted = Points("P", INSTANCES, points, [torch.rand(6), torch.rand(4)], levels, ["p2", "p3"])
    plain = Points("P", INSTANCES, points, grid=(2, 3))
    scores, boxes = torch.rand(120), torch.rand(120, 4)
    by_level = BoxLevels("L", boxes, scores, torch.arange(120) % 2, ["p2", "p3"])
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    masks[0, :10], masks[1, 5:], masks[2, 5:9] = True, True, True
    taken = masks.clone()
    taken[1, :10], taken[2] = False, False
    labels, reasons = torch.tensor([0, 1, 0]), ["", "", "too much of it is taken"]
    order = OrderedMasks(
        "O", masks, taken, reasons, torch.tensor([0.9, 0.8, 0.4]), labels, torch.tensor([False, True, True])
    )
    figures = draw(weighted=weighted, plain=plain, levels=by_level, order=order)
    assert titles(figures["weighted"]) == titles(figures["plain"]) == ["dog 90%", "cat 50%"]
    assert [t.split(",")[0] for t in titles(figures["levels"])] == ["p2: 60 boxes", "p3: 60 boxes"]
    assert titles(figures["order"]) == ["1. sky 90%", "2. dog 80%, 67% of it", "cat 40%: too much of it is taken"]
    for figure in figures.values():
        assert rendered(figure).std() > 0


def test_without_instances_there_is_nothing_to_draw():
    none = INSTANCES[torch.zeros(2, dtype=torch.bool)]
    assert not draw(a=InstanceMaps("A", none, [torch.zeros(0, 7, 7)], ["x"]), b=Points("P", none, []))
    assert not draw(c=WeightedSum("S", none, torch.zeros(4, 3, 3), torch.zeros(0, 4), torch.zeros(0, 3, 3)))


def test_unknown_kinds_are_refused():
    with pytest.raises(TypeError, match="part 'odd' is a Tensor"):
        draw(odd=torch.zeros(3))
