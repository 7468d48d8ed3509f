"""The page in a real browser: it opens from the disk, its filters work, its pictures load."""

import json
import shutil

import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from pentamask.engine.checks import BadInput
from pentamask.report import write_report


def shown(page) -> list[str]:
    """The images that the gallery shows, from their captions."""
    cards = page.locator(".card:visible .muted:first-child").all_inner_texts()
    return [text.split(",")[0] for text in cards]


def test_page_in_the_browser(run, page, tmp_path):
    lines = [{"iteration": i, "total_loss": 3 - i / 20, "lr": 0.1, "time": 0.1} for i in (19, 39)]
    (run / "metrics.json").write_text("\n".join(map(json.dumps, [*lines, {"iteration": 40, "segm/AP": 12.0}])))
    (run / "inside" / "1").mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(run / "inside" / "1" / "bases.png")
    path = write_report([str(run)], str(tmp_path / "report"))
    page.goto(f"file://{path}")
    images = page.locator("img").all()
    assert len(images) == 2 + 5 + 2 + 1  # training, evaluation, gallery, inside
    assert all(image.evaluate("x => x.complete && x.naturalWidth > 0") for image in images)
    assert images[-3].evaluate("x => x.naturalWidth") == 3 * 320
    # F1 is highest with the right detection and the misplaced one that scores above it.
    assert shown(page) == ["image 2", "image 1"]  # the worst first
    page.click("#order")
    assert shown(page) == ["image 1", "image 2"]
    page.select_option("#error", "localisation")
    assert shown(page) == ["image 2"] and page.inner_text("#count") == "1 of 2 pictures"
    page.select_option("#class", "<two> $\\frac$")
    assert shown(page) == ["image 2"]
    page.select_option("#error", "duplicate")
    assert shown(page) == []
    page.select_option("#error", "missed")
    assert shown(page) == ["image 1", "image 2"]
    assert page.locator("pre").first.text_content().endswith("<b>bold</b>\n")  # text, not markup


def test_several_runs_and_no_predictions(run, page, tmp_path):
    other = tmp_path / "other" / "out"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("DATASETS: {TEST: [two_pictures]}")
    (other / "metrics.json").write_text('{"iteration": 1, "total_loss": 2.0}')
    path = write_report([str(other)], str(tmp_path / "alone"))
    page.goto(f"file://{path}")
    assert "No saved predictions were found" in page.inner_text("#summary")
    shutil.copytree(run, tmp_path / "copy")
    path = write_report([str(run), str(other), str(tmp_path / "copy"), str(run)], str(tmp_path / "report"))
    page.goto(f"file://{path}")
    assert page.locator("#which option").count() == 2 and page.locator(".cards:visible").count() == 1


def test_an_evaluation_that_was_killed(run, page, tmp_path):
    for name in ("coco_instances_results.json", "predictions.json"):
        (run / "inference" / name).write_text('[{"image_id": 1')
    page.goto(f"file://{write_report([str(run)], str(tmp_path / 'report'))}")
    assert "No saved predictions were found: evaluate first." in page.inner_text("#summary")


def test_nothing_found(run, page, tmp_path):
    (run / "inference" / "coco_instances_results.json").write_text("[]")
    page.goto(f"file://{write_report([str(run)], str(tmp_path / 'report'))}")
    assert "out, two_pictures: nothing was found in any picture." in page.inner_text("#summary")
    assert not page.locator("#summary table").is_visible()
    page.select_option("#error", "missed")
    assert shown(page) == ["image 1", "image 2"]


def test_mistakes(run, tmp_path):
    MetadataCatalog.get("two_pictures")
    (run / "config.yaml").write_text("DATASETS: {TEST: [two_picture]}")
    with pytest.raises(BadInput, match=r"two_picture.*Did you mean two_pictures"):
        write_report([str(run)], str(tmp_path / "report"))
