"""Puts a report together: one page, and its pictures beside it."""

import os
import shutil
from collections.abc import Sequence
from typing import Any

from detectron2.data import Metadata, MetadataCatalog
from matplotlib import rc_context
from matplotlib.figure import Figure

from pentamask.common import import_extra
from pentamask.data.panoptic import find_metadata
from pentamask.engine.checks import check_registered
from pentamask.evaluation.panoptic import quality_by_class
from pentamask.visualize.predictions import literal_text, with_class_names

from . import charts
from .detection import Detections, class_names, evaluate_results, load_results, load_truth
from .errors import KINDS, find_errors, find_nothing
from .gallery import Card, choose_cards, draw_cards, load_segments
from .runs import Run, read_runs

FILES = "index_files"  # folder of the pictures, named as browsers do
_TASKS = {"segm": "mask", "bbox": "box"}
_THRESHOLD_WITHOUT_ERRORS = 0.5


@literal_text()
def write_report(folders: Sequence[str], output: str, *, num_images: int = 40) -> str:
    """A page about one or more trainings or evaluations, from the files in their OUTPUT_DIRs.

    Args:
        folders: OUTPUT_DIRs; their test datasets must be registered.
        output: folder for index.html and its pictures.
        num_images: of each evaluation that the gallery shows; a few more if an error would have no example.

    Returns:
        The path of index.html.

    Raises:
        BadInput: a folder holds no run, or a dataset is not registered.
    """
    import_extra("jinja2", "report")  # before work is lost
    runs = read_runs(list(folders))
    writer = _Writer(output)
    evaluations = [
        _describe_evaluation(writer, run, dataset, folder, num_images)
        for run in runs
        for dataset, folder in run.datasets.items()
    ]
    training = [writer.chart(f"training-{name}", figure) for name, figure in charts.draw_training(runs).items()]
    page = _render(
        {
            "runs": runs,
            "training": training,
            "evaluations": [x for x in evaluations if x is not None],
            "explained": {run.name: writer.copies(run) for run in runs if run.explained},
            "kinds": KINDS,
        }
    )
    path = os.path.join(output, "index.html")
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)
    return path


class _Writer:
    """Puts pictures into the report's folder and says how the page names them."""

    def __init__(self, output: str) -> None:
        self.output = output
        for name in ("charts", "images", "inside"):
            os.makedirs(os.path.join(output, FILES, name), exist_ok=True)

    def chart(self, name: str, figure: Figure) -> str:
        path = f"{FILES}/charts/{name}.svg"
        with rc_context({"svg.fonttype": "none"}):  # text as text: smaller files
            figure.savefig(os.path.join(self.output, path))
        return path

    def copies(self, run: Run) -> dict[str, list[str]]:
        """Of each picture that was explained the paths of copies of its figures."""
        copied: dict[str, list[str]] = {}
        for image, paths in run.explained.items():
            for path in paths:
                target = f"{FILES}/inside/{_file_name(f'{run.name}-{image}')}-{os.path.basename(path)}"
                shutil.copyfile(path, os.path.join(self.output, target))
                copied.setdefault(image, []).append(target)
        return copied


def _file_name(name: str) -> str:
    """A name that can stand in a path and in an address."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _describe_evaluation(
    writer: _Writer, run: Run, dataset: str, folder: str, num_images: int
) -> dict[str, Any] | None:
    """What the page says about one dataset: tables, charts, and the gallery; None if it has not been evaluated."""
    check_registered(dataset, f"The test dataset of {run.folder}")
    key = _file_name(f"{run.name}-{dataset}")
    found: dict[str, Any] = {"key": key, "run": run.name, "dataset": dataset, "tables": [], "charts": [], "cards": []}
    found["panoptic"] = _describe_panoptic(dataset, folder)
    results = load_results(folder)
    if results is None and found["panoptic"] is None:
        return None
    threshold, cards = _THRESHOLD_WITHOUT_ERRORS, list[Card]()
    if results:
        evaluated = evaluate_results(load_truth(dataset), results)
        found["tables"] = [{"task": _TASKS[x.task], "all": x.metrics(), "classes": x.by_class()} for x in evaluated]
        threshold, cards = _describe_detections(writer, found, evaluated[0], num_images)
    elif found["panoptic"]:
        cards = _first_cards(folder, num_images)
    elif results is not None:
        truth = load_truth(dataset)
        cards = choose_cards(find_nothing(truth), class_names(truth), num_images)
    place = f"{FILES}/images/{key}"
    metadata = with_class_names(find_metadata(dataset))
    names = draw_cards(cards, dataset, folder, results or [], metadata, threshold, os.path.join(writer.output, place))
    found["threshold"] = threshold
    found["cards"] = [{"card": card, "path": f"{place}/{names[card.image]}"} for card in cards]
    found["classes"] = sorted({name for card in cards for name in card.classes})
    return found


def _describe_detections(
    writer: _Writer, found: dict[str, Any], evaluated: Detections, num_images: int
) -> tuple[float, list[Card]]:
    """Add the charts of masks, or of boxes where there are no masks."""
    errors = find_errors(evaluated)
    counted = [x for x in errors.detections if x.kind != "ignored"]
    figures = {
        "precision and recall": charts.draw_precision_recall(evaluated),
        "errors": charts.draw_errors(errors),
        "calibration": charts.draw_calibration(counted),
        "scores and IoU": charts.draw_scores(counted, errors.threshold),
        "confusion": charts.draw_confusion(errors, evaluated.names),
    }
    task = _TASKS[evaluated.task]
    found["charts"] = [
        {"title": f"{title} ({task})", "path": writer.chart(f"{found['key']}-{_file_name(title)}", figure)}
        for title, figure in figures.items()
    ]
    return errors.threshold, choose_cards(errors, evaluated.names, num_images)


def _describe_panoptic(dataset: str, folder: str) -> dict[str, Any] | None:
    """Panoptic quality in percent: "groups" and "classes"; None without saved segments."""
    if load_segments(folder) is None:
        return None
    metadata = MetadataCatalog.get(dataset)
    quality = quality_by_class(folder, metadata)
    names = _panoptic_names(metadata)
    groups = {
        name: {key: 100 * quality[name][key] for key in ("pq", "sq", "rq")} for name in ("All", "Things", "Stuff")
    }
    classes = [
        {"name": names.get(i, str(i)), **x, **{key: 100 * x[key] for key in ("pq", "sq", "rq")}}
        for i, x in quality["per_class"].items()
    ]
    return {"groups": groups, "classes": classes}


def _panoptic_names(metadata: Metadata) -> dict[int, str]:
    """The names of a panoptic dataset's categories by their ids; things come last, as ids may occur twice."""
    names = {}
    for kind in ("stuff", "thing"):
        ids = metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
        names.update({i: metadata.get(f"{kind}_classes")[label] for i, label in ids.items()})
    return names


def _first_cards(folder: str, count: int) -> list[Card]:
    return [Card(image) for image in list(load_segments(folder) or {})[:count]]


def _render(values: dict[str, Any]) -> str:
    jinja2 = import_extra("jinja2", "report")
    loader = jinja2.PackageLoader("pentamask.report", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda x: "" if x is None or x != x else f"{x:.1f}"
    return environment.get_template("index.html.jinja").render(values)
