"""tools.report on all five models, untrained and tiny: its numbers are the evaluator's."""

import os
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from pentamask.engine.checks import BadInput
from pentamask.engine.load_config import find_config_file, load_config
from pentamask.report import build, inside
from pentamask.tools import report, train_net

NAMES = (
    "BlendMask/R_50_1x.py",
    "CenterMask/centermask_R_50_FPN_ms_3x.py",
    "MaskRCNN/R_50_FPN_1x.py",
    "PanopticSegFormer/R_50_2x.py",
    "YOLACT/yolact_resnet50.py",
)


def _run(*words: str) -> str:
    return report.main(report.get_parser().parse_args(["--images", "2", *words]))


@pytest.fixture(autouse=True)
def _one_image(monkeypatch) -> None:
    """Drawing takes most of the time."""
    monkeypatch.setattr(inside, "_NUM_IMAGES", 1)
    monkeypatch.setattr(inside, "_NUM_INSTANCES", 1)


@pytest.fixture
def values(monkeypatch) -> dict:
    """What the last page was made of."""
    kept: dict = {}
    render = build._render
    monkeypatch.setattr(build, "_render", lambda given: kept.update(given) or render(given))
    return kept


@pytest.fixture
def results(monkeypatch) -> dict:
    """What the evaluators returned last."""
    kept: dict = {}
    run = train_net.run

    def spy(args):
        cfg, found = run(args)
        kept.update(found)
        return cfg, found

    monkeypatch.setattr(train_net, "run", spy)
    return kept


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_every_model(lazy, tmp_path, values, results, name):
    flag, file, *overrides = lazy(name)
    path = _run(flag, file, "--output", str(tmp_path / "new"), *overrides)
    (found,) = values["evaluations"]
    for table in found["tables"]:
        task = {"mask": "segm", "box": "bbox"}[table["task"]]
        expected = {key: value for key, value in results[task].items() if not key.startswith("AP-")}
        assert table["all"] == pytest.approx(expected, nan_ok=True)
        by_class = {f"AP-{row['name']}": row["AP"] for row in table["classes"]}
        assert by_class == pytest.approx({key: results[task][key] for key in by_class}, nan_ok=True)
    assert len(found["tables"]) == 2
    if name.startswith("Panoptic"):
        groups = {"All": "", "Things": "_th", "Stuff": "_st"}
        for group, suffix in groups.items():
            for key, value in found["panoptic"]["groups"][group].items():
                assert value == pytest.approx(results["panoptic_seg"][key.upper() + suffix], nan_ok=True)
        assert len(found["panoptic"]["classes"]) == 9
    assert list(values["explained"].values())[0].keys() == {"000_000001"}
    assert os.path.isfile(path)


def test_weights_bring_the_curves_of_their_training(tiny, tmp_path, capsys):
    trained, config = tmp_path / "trained", "shapes/BlendMask_R_50_thin.yaml"
    trained.mkdir()
    torch.save(build_model(load_config(find_config_file(config), tiny)).state_dict(), trained / "model.pth")
    (trained / "metrics.json").write_text('{"iteration": 1, "total_loss": 2.0}')
    weights = ["MODEL.WEIGHTS", str(trained / "model.pth")]
    path = _run("--config-file", config, "--output", str(tmp_path / "first"), *tiny, *weights)
    assert "index_files/charts/training-total.svg" in Path(path).read_text()
    # Once more, from the files.
    path = _run("--from", str(tmp_path / "first" / "run"), "--output", str(tmp_path / "again"))
    assert path == str(tmp_path / "again" / "index.html") and f"Look at {path}" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--eval-only"]])
def test_train_net_writes_it_if_asked_to(lazy, tmp_path, flags):
    words = [*flags, *lazy("CenterMask/centermask_R_50_FPN_ms_3x.py"), "train.report=True"]
    train_net.main(train_net.default_argument_parser().parse_args(words))
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert ("model_final.pth" in page) == (not flags)


def test_mistakes(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="--from takes no config options"):
        _run("--from", str(tmp_path), "--output", str(tmp_path), "MODEL.DEVICE", "cpu")
    with pytest.raises(BadInput, match=r"has no config\.yaml"):
        _run("--from", str(tmp_path), "--output", str(tmp_path / "new"))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"needs the package jinja2: pip install pentamask\[report\]"):
        _run("--from", str(tmp_path), "--output", str(tmp_path / "new"))
