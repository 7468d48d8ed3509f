"""The charts of a report, with matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from pentamask.visualize.predictions import shortened

from .detection import Detections
from .errors import KINDS, Detection, Errors, calibration
from .runs import Run

_LOSSES_IN_A_ROW = 4
_MAX_CURVES = 10  # classes with a curve of their own: so many colours there are
_MAX_WRITTEN = 20  # classes up to which a confusion matrix has its numbers in it
_STYLE: dict[str, Any] = {"fontsize": 8}


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for ax in axes:
        ax.tick_params(labelsize=7)
        ax.grid(alpha=0.25)
    return figure, axes


def _series(run: Run, name: str) -> tuple[list[float], list[float]]:
    """Iterations and values of one metric; a resumed training keeps the later of two values."""
    values = {line["iteration"]: line[name] for line in run.metrics if name in line and "iteration" in line}
    return sorted(values), [values[i] for i in sorted(values)]


def _plot_series(ax: Axes, runs: Sequence[Run], name: str, dots: bool) -> None:
    for i, run in enumerate(runs):
        x, y = _series(run, name)
        if x:
            marker = "o" if dots or len(x) == 1 else None  # one point makes no line
            ax.plot(x, y, linewidth=1, label=run.name, color=f"C{i}", marker=marker, markersize=3)
    ax.set_title(name, **_STYLE)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def draw_training(runs: Sequence[Run]) -> dict[str, Figure]:
    """Charts over the iterations, by name: "metrics" of the evaluations, the "total" loss with the learning rate, and
    the "losses" that it is made of, without those that are 0 throughout."""
    names = list(dict.fromkeys(name for run in runs for line in run.metrics for name in line))
    losses = [name for name in names if "loss" in name and any(line.get(name) for run in runs for line in run.metrics)]
    groups: dict[str, list[str]] = {
        "metrics": [name for name in names if name.endswith(("/AP", "/PQ"))],
        "total": [name for name in ("total_loss", "lr") if name in names],
        "losses": [name for name in losses if name != "total_loss"],
    }
    return {key: _draw_group(runs, chosen, key == "metrics") for key, chosen in groups.items() if chosen}


def _draw_group(runs: Sequence[Run], names: Sequence[str], dots: bool) -> Figure:
    columns = min(_LOSSES_IN_A_ROW, len(names))
    rows = -(-len(names) // columns)
    figure, axes = _figure(2.9 * columns, 2.1 * rows, rows, columns)
    for ax, name in zip(axes, names):
        _plot_series(ax, runs, name, dots)
    for ax in axes[len(names) :]:
        ax.axis("off")
    if len(runs) > 1:
        handles = [Line2D([], [], color=f"C{i}", label=run.name) for i, run in enumerate(runs)]
        axes[0].legend(handles=handles, fontsize=6)
    return figure


def draw_precision_recall(found: Detections) -> Figure:
    """Precision over recall: the mean over the classes at three IoUs, and the classes at IoU 0.5."""
    precision = found.precision_at_recall()
    recalls, ious = found.evaluated.params.recThrs, found.evaluated.params.iouThrs
    figure, (means, classes) = _figure(8.6, 3.2, 1, 2)
    known = np.isfinite(precision[0, 0])
    for t in (0, 5, len(ious) - 1):
        if known.any():
            means.plot(recalls, precision[t][:, known].mean(axis=1), label=f"IoU {ious[t]:.2f}", linewidth=1)
    areas = np.where(known, precision[0].mean(axis=0), -1)
    for k in sorted(np.argsort(areas)[-_MAX_CURVES:].tolist()):
        if known[k]:
            classes.plot(recalls, precision[0, :, k], label=shortened(found.names[k]), linewidth=1)
    for ax, title in ((means, "mean of all classes"), (classes, "classes at IoU 0.50")):
        ax.set(xlim=(0, 1), ylim=(0, 1.02))
        ax.set_xlabel("recall", **_STYLE)
        ax.set_ylabel("precision", **_STYLE)
        ax.set_title(title, **_STYLE)
    if means.lines:
        means.legend(fontsize=6, loc="lower left")
        classes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_scores(detections: Sequence[Detection], threshold: float) -> Figure:
    """How scores and IoU are spread over right and wrong detections."""
    figure, (scores, ious) = _figure(8.6, 2.8, 1, 2)
    bins = np.linspace(0, 1, 26).tolist()
    right = [x for x in detections if x.kind == "correct"]
    wrong = [x for x in detections if x.kind != "correct"]
    for ax, values, title in (
        (scores, [[x.score for x in part] for part in (right, wrong)], "score"),
        (ious, [[x.iou for x in part] for part in (right, wrong)], "IoU with the nearest object"),
    ):
        ax.hist(values, bins, stacked=True, label=["right", "wrong"], color=["seagreen", "indianred"])
        ax.set_yscale("symlog")
        ax.yaxis.set_major_formatter(ScalarFormatter())  # plain numbers: powers of ten would be formulas
        ax.set_title(title, **_STYLE)
        ax.legend(fontsize=6)
    scores.axvline(threshold, color="black", linewidth=0.8, linestyle="--")
    return figure


def draw_errors(errors: Errors) -> Figure:
    """How many errors there are of each kind."""
    figure, (ax,) = _figure(4.2, 2.6)
    counts = errors.counts()
    bars = ax.bar(KINDS, [counts[kind] for kind in KINDS], color="indianred")
    ax.bar_label(bars, fontsize=7)
    ax.margins(y=0.12)
    ax.tick_params(axis="x", labelrotation=30)
    ax.set_title(f"errors from a score of {errors.threshold:.2f}, {counts['correct']} right", **_STYLE)
    return figure


def draw_calibration(detections: list[Detection]) -> Figure:
    """The share of right detections over their score."""
    confidence, precision, counts, error = calibration(detections)
    figure, (ax,) = _figure(3.4, 2.9)
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    known = counts > 0
    ax.plot(confidence[known], precision[known], marker="o", markersize=3, linewidth=1)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_xlabel("mean score", **_STYLE)
    ax.set_ylabel("share of right detections", **_STYLE)
    ax.set_title(f"calibration error {error:.3f}", **_STYLE)
    return figure


def draw_confusion(errors: Errors, names: Sequence[str]) -> Figure:
    """Truth by prediction, each row by its sum, in numbers where there is room."""
    counts, labels = errors.confusion, [*map(shortened, names), "background"]
    side = min(3 + 0.32 * len(labels), 14)
    figure, (ax,) = _figure(side, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ax.grid(visible=False)
    ax.set_xticks(range(len(labels)), labels, rotation=90)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_xlabel("prediction", **_STYLE)
    ax.set_ylabel("truth", **_STYLE)
    if len(labels) <= _MAX_WRITTEN:
        for row, column in zip(*counts.nonzero()):
            color = "white" if shares[row, column] > 0.5 else "black"
            ax.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=6, color=color)
    return figure
