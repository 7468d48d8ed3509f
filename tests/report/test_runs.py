"""Reading what a training left."""

import hashlib
import json

import pytest

from pentamask.engine.checks import BadInput
from pentamask.report.runs import read_runs


def test_a_training(tmp_path):
    folder = tmp_path / "a" / "out"
    folder.mkdir(parents=True)
    lines = [
        {"iteration": 19, "time": 0.2, "total_loss": 1.5},
        {"iteration": 39, "time": 0.4},
        {"iteration": 40, "segm/AP": 3},
    ]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"iteration": 5')  # killed
    (folder / "config.yaml").write_text("DATASETS: {TEST: [x, y]}\nMODEL: {WEIGHTS: no.pth}")
    (folder / "last_checkpoint").write_text("model.pth")
    (folder / "model.pth").write_bytes(b"weights")
    speed = "Total inference pure compute time: 0:00:04 (0.0402 s / iter per device, on 1 devices)"
    table = "-----  ----\nPython 3.11\n-----  ----"
    (folder / "log.txt").write_text(f"Environment info:\n{table}\n[...] {speed}\n")
    (folder / "inside" / "7").mkdir(parents=True)
    (folder / "inside" / "7" / "bases.png").touch()
    other = tmp_path / "b" / "out"
    other.mkdir(parents=True)
    lazy = "dataloader: {test: {dataset: {names: z}}}\ntrain: {init_checkpoint: w.pth}\nodd: !!python/object:x {a: 1}"
    (other / "config.yaml").write_text(lazy)
    first, second = read_runs([str(folder), str(other)])
    assert (first.name, second.name) == ("a/out", "b/out") and first.metrics == lines
    assert first.datasets == {x: str(folder / "inference" / x) for x in "xy"}
    assert second.datasets == {"z": str(other / "inference")}
    assert first.environment == table and first.explained == {"7": [str(folder / "inside" / "7" / "bases.png")]}
    assert first.facts == {
        "checkpoint": str(folder / "model.pth"),
        "SHA-256 of it": hashlib.sha256(b"weights").hexdigest(),
        "inference": "40.2 ms an image and device",
        "training": "300 ms an iteration (median)",
        "iterations": "40",
    }
    assert second.facts == {"checkpoint": "w.pth"}


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(BadInput, match=r"has no config\.yaml: give an OUTPUT_DIR"):
        read_runs([str(tmp_path)])
