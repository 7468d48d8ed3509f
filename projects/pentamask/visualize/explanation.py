"""Draws explanations by the kinds of their parts, whatever model they come from."""

import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from pentamask.explanation import (
    BoxLevels,
    Explanation,
    InstanceMaps,
    Maps,
    OrderedMasks,
    Part,
    Points,
    WeightedSum,
)

from .predictions import literal_text, shortened

_WIDTH = 11.0  # inches of a figure, if its pictures get neither smaller nor larger than this
_SMALLEST, _LARGEST = 2.2, 3.5
_DPI = 100
_COLUMNS = 5  # pictures in a row
_SHOWN_PIXELS = 480  # of a picture's longer side, about; large ones would only take time
# How much of a part is drawn.
_MAX_MAPS, _MAX_TERMS, _MAX_BOXES, _MAX_MASKS = 36, 8, 100, 19
_COLORS = colormap(rgb=True, maximum=1)


def draw_explanation(image: np.ndarray, parts: Explanation, metadata: Metadata) -> Iterator[tuple[str, Figure]]:
    """Pictures of everything that a model's `explain` returned for an image.

    Args:
        image: (H, W, 3) uint8, RGB, as the model got it.
        parts: the explanation of the image.
        metadata: of the dataset: class names.

    Yields:
        A name such as "bases" or, of parts with a picture for each instance, "blend_1", and its picture.

    Raises:
        TypeError: a part is none of the kinds of `pentamask.explanation`.
    """
    for name, part in parts.items():
        if type(part) not in _DRAWERS:
            raise TypeError(f"The explanation's part {name!r} is a {type(part).__name__}, which cannot be drawn.")
        figures = _DRAWERS[type(part)](image, part, metadata)
        for i, figure in enumerate(figures):
            yield (f"{name}_{i + 1}" if isinstance(part, WeightedSum) else name), figure


def save_explanation(image: np.ndarray, parts: Explanation, metadata: Metadata, folder: str) -> list[str]:
    """Write the pictures of `draw_explanation` as NAME.png into a folder, which is made; returns their paths."""
    os.makedirs(folder, exist_ok=True)
    paths = []
    with literal_text():
        for name, figure in draw_explanation(image, parts, metadata):
            paths.append(os.path.join(folder, f"{name}.png"))
            figure.savefig(paths[-1])
    return paths


def _grid(title: str, count: int, image: np.ndarray, columns: int = _COLUMNS) -> tuple[Figure, list[Axes]]:
    """A figure with `count` cells in rows of `columns`, in the shape of the image."""
    columns = max(1, min(columns, count))
    cell = min(max(_WIDTH / columns, _SMALLEST), _LARGEST)
    rows = max(1, -(-count // columns))
    height = min(max(cell * image.shape[0] / image.shape[1], cell / 2), 2 * cell)
    zoom = _text_zoom(columns * cell)
    margin, gap = 0.3 * zoom, 0.3 * zoom  # for the title, and for that of each row
    size = columns * cell, rows * (height + gap) + margin
    figure = Figure(figsize=size, dpi=_DPI)
    figure.suptitle(title, fontsize=9 * zoom, x=0.02, y=1 - 0.06 / size[1], ha="left", va="top")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    top = 1 - (margin + 0.8 * gap) / size[1]
    figure.subplots_adjust(0.01, 0.01, 0.99, top, wspace=0.04, hspace=gap / height)
    for ax in axes:
        ax.axis("off")
    return figure, axes[:count]


def _text_zoom(width: float) -> float:
    """How much larger letters are in a figure of so many inches, which pages show as wide as any other."""
    return max(1.0, width / _WIDTH)


def _show_image(ax: Axes, image: np.ndarray, *, grey: bool = False) -> None:
    """The picture in pixel coordinates: pixel i covers i to i + 1."""
    height, width = image.shape[:2]
    if grey:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) / 255 * 0.6 + 0.4
    step = max(1, max(height, width) // _SHOWN_PIXELS)
    ax.imshow(image[::step, ::step], extent=(0, width, height, 0))


def _show_map(
    ax: Axes,
    values: Tensor,
    extent: tuple[float, float, float, float] | None,
    *,
    alpha: float = 1.0,
    signed: bool = False,
) -> str:
    """A map (h, w): negative values blue, positive red; without negative ones dark to bright, unless `signed`.

    `extent`: left, right, bottom, top in pixels. Returns the range of the values.
    """
    array = values.detach().float().cpu().numpy()
    low, high = float(array.min(initial=np.inf)), float(array.max(initial=-np.inf))
    if signed or low < 0:
        limit = max(abs(low), abs(high), 1e-6)
        ax.imshow(array, "RdBu_r", vmin=-limit, vmax=limit, extent=extent, alpha=alpha)
    else:
        ax.imshow(array, "viridis", vmin=low, vmax=max(high, low + 1e-6), extent=extent, alpha=alpha)
    digits = ".1e" if 0 < max(abs(low), abs(high)) < 0.01 else ".2f"
    return f"{low:{digits}} to {high:{digits}}"


def _crop_to(ax: Axes, image: np.ndarray) -> None:
    ax.set_xlim(0, image.shape[1])
    ax.set_ylim(image.shape[0], 0)


def _frame(ax: Axes, box: Tensor, color: object = "yellow", width: float = 1.2) -> None:
    x1, y1, x2, y2 = box.tolist()
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width))


def _captions(instances: Instances, metadata: Metadata) -> list[str]:
    names = [shortened(name) for name in metadata.thing_classes]
    return [f"{names[label]} {score:.0%}" for label, score in zip(instances.pred_classes, instances.scores.tolist())]


def _title(ax: Axes, text: str) -> None:
    figure = ax.get_figure(root=True)
    assert figure is not None
    ax.set_title(text, fontsize=7 * _text_zoom(figure.get_figwidth()), pad=2)


def _draw_maps(image: np.ndarray, part: Maps, metadata: Metadata) -> Iterator[Figure]:
    """The image and the strongest maps, in their order."""
    values = part.values.detach().float().cpu()
    strength = values.abs().flatten(1).amax(dim=1)
    shown = sorted(strength.argsort(descending=True)[:_MAX_MAPS].tolist())
    left_out = f" (the strongest {len(shown)} of {len(values)})" if len(shown) < len(values) else ""
    figure, axes = _grid(part.title + left_out, len(shown) + 1, image)
    _show_image(axes[0], image)
    for ax, k in zip(axes[1:], shown):
        _show_map(ax, values[k], (0, part.extent[1], part.extent[0], 0))
        _crop_to(ax, image)
        _title(ax, part.names[k] if part.names else str(k + 1))
    yield figure


def _draw_instance_maps(image: np.ndarray, part: InstanceMaps, metadata: Metadata) -> Iterator[Figure]:
    """A row for each instance: its box in the image, and its maps, over the image where they cover it."""
    columns = len(part.values) + 1
    captions = _captions(part.instances, metadata)
    if not captions:
        return
    figure, axes = _grid(part.title, columns * len(captions), image, columns)
    for i, (caption, box) in enumerate(zip(captions, part.instances.pred_boxes.tensor)):
        row = axes[i * columns : (i + 1) * columns]
        _show_image(row[0], image)
        _frame(row[0], box)
        _title(row[0], f"{caption}, {part.notes[i]}" if part.notes else caption)
        for ax, name, values in zip(row[1:], part.names, part.values):
            if part.extent is None:
                shown = _show_map(ax, values[i], None)
            else:
                _show_image(ax, image, grey=True)
                shown = _show_map(ax, values[i], (0, part.extent[1], part.extent[0], 0), alpha=0.7)
                _frame(ax, box, width=0.8)
                _crop_to(ax, image)
            _title(ax, f"{name}, {shown}")
    yield figure


def _draw_sum(image: np.ndarray, part: WeightedSum, metadata: Metadata) -> Iterator[Figure]:
    """For each instance a figure: inputs, weights, products and the sum so far, the largest terms first."""
    for i, caption in enumerate(_captions(part.instances, metadata)):
        inputs, weights, products = (x.detach().float().cpu() for x in part.terms(i))
        order = products.abs().flatten(1).mean(dim=1).argsort(descending=True)
        rest = order[_MAX_TERMS:]
        order = order[:_MAX_TERMS] if len(rest) else torch.arange(len(inputs))
        columns = len(order) + 1 + bool(len(rest))
        figure, axes = _grid(f"{part.title}: {caption}", 4 * columns, image, columns)
        rows = [axes[row * columns : (row + 1) * columns] for row in range(4)]
        extent = None if part.extent is None else (0.0, part.extent[1], part.extent[0], 0.0)
        for column, k in enumerate(order.tolist()):
            cells = [row[column] for row in rows]
            _show_map(cells[0], inputs[k], extent)
            _title(cells[0], f"map {k + 1}")
            if weights.dim() == 3:
                _show_map(cells[1], weights[k], None)
                _title(cells[1], "times its weights")
            else:
                _draw_coefficient(cells[1], float(weights[k]), float(weights.abs().max()))
            _show_map(cells[2], products[k], extent, signed=True)
            _title(cells[2], "product")
            _show_map(cells[3], products[order[: column + 1]].sum(dim=0), extent, signed=True)
            _title(cells[3], "sum so far")
        if len(rest):
            _show_map(rows[2][-2], products[rest].sum(dim=0), extent, signed=True)
            _title(rows[2][-2], f"the other {len(rest)}")
            _show_map(rows[3][-2], products.sum(dim=0), extent, signed=True)
            _title(rows[3][-2], "sum of all")
        _show_image(rows[0][-1], image)
        _frame(rows[0][-1], part.instances.pred_boxes.tensor[i])
        _title(rows[0][-1], caption)
        _show_map(rows[3][-1], part.result[i], extent)
        _title(rows[3][-1], "mask (sigmoid)")
        yield figure


def _draw_coefficient(ax: Axes, value: float, largest: float) -> None:
    """A bar to the right or to the left, with its number."""
    ax.axis("on")
    ax.set(xlim=(-1.1 * largest, 1.1 * largest), ylim=(-1, 1), xticks=[], yticks=[])
    ax.axvline(0, color="grey", linewidth=0.8)
    ax.barh(0, value, height=0.5, color="firebrick" if value > 0 else "steelblue")
    _title(ax, f"times {value:+.2f}")


def _draw_points(image: np.ndarray, part: Points, metadata: Metadata) -> Iterator[Figure]:
    """For each instance its points over the image, larger where they weigh more, coloured by level."""
    captions = _captions(part.instances, metadata)
    if not captions:
        return
    figure, axes = _grid(part.title, len(captions), image, columns=3)
    for i, (ax, caption, box) in enumerate(zip(axes, captions, part.instances.pred_boxes.tensor)):
        _show_image(ax, image, grey=True)
        _frame(ax, box)
        if part.grid is not None:
            _draw_cells(ax, box, part.grid)
        x, y = part.points[i].detach().cpu().numpy().T
        weights = part.weights[i].detach().cpu().numpy() if part.weights else np.full(len(x), 1 / max(len(x), 1))
        sizes = 8 + 80 * weights / weights.max(initial=1e-6) if part.weights else 6
        levels = part.levels[i].tolist() if part.levels else [0] * len(x)
        ax.scatter(x, y, s=sizes, c=_COLORS[levels], alpha=0.8, linewidths=0)
        for level in sorted(set(levels)) if part.level_names else ():
            ax.scatter([], [], color=_COLORS[level], label=part.level_names[level])
        if part.level_names:
            ax.legend(fontsize=6, loc="lower right")
        _zoom(ax, box, image, (x, y))
        _title(ax, caption)
    yield figure


def _draw_cells(ax: Axes, box: Tensor, grid: tuple[int, int]) -> None:
    x1, y1, x2, y2 = box.tolist()
    ax.vlines(np.linspace(x1, x2, grid[1] + 1), y1, y2, colors="yellow", linewidths=0.4)
    ax.hlines(np.linspace(y1, y2, grid[0] + 1), x1, x2, colors="yellow", linewidths=0.4)


def _zoom(ax: Axes, box: Tensor, image: np.ndarray, points: tuple[np.ndarray, np.ndarray]) -> None:
    """Show the box and the points with some of the image around, in the image's shape."""
    x1, y1, x2, y2 = box.tolist()
    xs, ys = np.append(points[0], [x1, x2]), np.append(points[1], [y1, y2])
    scale = max((xs.max() - xs.min()) / image.shape[1], (ys.max() - ys.min()) / image.shape[0]) * 1.15
    scale = min(max(scale, 0.1), 1.0)
    for low, high, size, limit in (
        (xs.min(), xs.max(), image.shape[1], ax.set_xlim),
        (ys.min(), ys.max(), image.shape[0], ax.set_ylim),
    ):
        start = min(max((low + high - scale * size) / 2, 0), size * (1 - scale))
        limits = (start, start + scale * size)
        limit(limits if limit == ax.set_xlim else limits[::-1])


def _draw_levels(image: np.ndarray, part: BoxLevels, metadata: Metadata) -> Iterator[Figure]:
    """A picture for each feature map with the best of its boxes."""
    figure, axes = _grid(part.title, len(part.level_names) + 1, image, columns=3)
    _show_image(axes[0], image)
    best = part.scores.argsort(descending=True)[:_MAX_BOXES]
    highest = float(part.scores.max()) if len(best) else 1.0
    for level, (ax, name) in enumerate(zip(axes[1:], part.level_names)):
        _show_image(ax, image, grey=True)
        own = best[part.levels[best] == level]
        for i in own.flip(0).tolist():
            strength = 0.25 + 0.75 * float(part.scores[i]) / highest
            _frame(ax, part.boxes[i], (*_COLORS[level], strength), 1.2)
        _crop_to(ax, image)
        count = int((part.levels == level).sum())
        _title(ax, f"{name}: {count} boxes" + (f", the best {len(own)}" if len(own) < count else ""))
    yield figure


def _draw_order(image: np.ndarray, part: OrderedMasks, metadata: Metadata) -> Iterator[Figure]:
    """The masks that were taken, each over those before it, then the best of those that were rejected."""
    taken = [i for i, reason in enumerate(part.reasons) if not reason]
    rejected = [i for i, reason in enumerate(part.reasons) if reason][: max(6, _MAX_MASKS - len(taken))]
    figure, axes = _grid(part.title, len(taken) + len(rejected) + 1, image, columns=5)
    painted = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) / 255
    _show_image(axes[0], image)
    for step, (ax, i) in enumerate(zip(axes[1:], taken)):
        pixels, color = part.taken[i].cpu().numpy(), _COLORS[step % len(_COLORS)]
        painted[pixels] = 0.3 * painted[pixels] + 0.7 * color
        _show_image(ax, painted)
        ax.contour(pixels, [0.5], colors="white", linewidths=1, extent=(0, image.shape[1], 0, image.shape[0]))
        share = int(pixels.sum()) / max(int(part.masks[i].sum()), 1)
        _title(ax, f"{step + 1}. {_label(part, i, metadata)}" + (f", {share:.0%} of it" if share < 1 else ""))
    for ax, i in zip(axes[1 + len(taken) :], rejected):
        pixels = part.masks[i].cpu().numpy()
        shown = painted * 0.5 + 0.5
        shown[pixels] = 0.4 * shown[pixels] + 0.6 * np.array([0.8, 0.1, 0.1])
        _show_image(ax, shown)
        _title(ax, f"{_label(part, i, metadata)}: {part.reasons[i]}")
    yield figure


def _label(part: OrderedMasks, i: int, metadata: Metadata) -> str:
    names = metadata.thing_classes if part.is_thing[i] else metadata.stuff_classes
    return f"{shortened(names[int(part.labels[i])])} {float(part.scores[i]):.0%}"


_DRAWERS: dict[type[Part], Callable[..., Iterator[Figure]]] = {
    Maps: _draw_maps,
    InstanceMaps: _draw_instance_maps,
    WeightedSum: _draw_sum,
    Points: _draw_points,
    BoxLevels: _draw_levels,
    OrderedMasks: _draw_order,
}
