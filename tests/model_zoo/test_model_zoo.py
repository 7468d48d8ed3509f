"""Configs by name: the functions keep Detectron2's conventions, and every config is complete."""

import os
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from pentamask import model_zoo
from pentamask.model_zoo import model_zoo as implementation
from pentamask.plugin import Release
from pentamask.tools.list_models import TABLE_BEGIN, TABLE_END, fill_tables, make_page

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("projects/pentamask/*/README.md"))]
SMALL = "shapes/BlendMask_R_50_thin.yaml"


def test_list_models_names_files_without_bases() -> None:
    names = model_zoo.list_models()
    assert {"BlendMask/R_50_1x.yaml", "BlendMask/Panoptic/R_50_1x.yaml", "FCOS/MS_R_50_2x.yaml", SMALL} <= set(names)
    assert not [name for name in names if "Base-" in name or name.endswith("__init__.py")]
    assert all(os.path.isfile(model_zoo.get_config_file(name)) for name in names)


@pytest.mark.parametrize("name", [name for name in model_zoo.list_models() if name.endswith(".yaml")])
def test_config_is_complete(name: str) -> None:
    cfg = model_zoo.get_config(name)
    assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
    assert max(cfg.SOLVER.STEPS, default=0) < cfg.SOLVER.MAX_ITER
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST


def test_configs_stay_inside_their_folder() -> None:
    for name in model_zoo.list_models():
        text = Path(model_zoo.get_config_file(name)).read_text()
        assert "_BASE_: ../.." not in text.replace('"', ""), name


def test_get_config_leaves_detectron2_alone() -> None:
    before = get_cfg()
    cfg = model_zoo.get_config("BlendMask/R_50_1x.yaml")
    assert isinstance(cfg, CfgNode) and cfg.MODEL.META_ARCHITECTURE == "BlendMask"
    assert get_cfg() == before


def test_unknown_config_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="BlendMask/R_51.yaml not available in Model Zoo!"):
        model_zoo.get_config_file("BlendMask/R_51.yaml")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BlendMask/550_R_50_1x.yaml", "Pretrained model for BlendMask/550_R_50_1x.yaml is not available!$"),
        ("BlendMask/Panoptic/R_50_3x.yaml", "is not available! Its file is listed on github.com/aim-uofa/AdelaiDet"),
    ],
)
def test_checkpoint_without_address_is_an_error(name: str, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        model_zoo.get_checkpoint_url(name)
    with pytest.raises(RuntimeError, match=words):
        model_zoo.get_config(name, trained=True)


def test_trained_config_names_the_release() -> None:
    url = model_zoo.get_checkpoint_url("MaskRCNN/R_50_FPN_3x.yaml")
    assert url.endswith("/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl")
    assert url == model_zoo.get_config("MaskRCNN/R_50_FPN_3x.yaml", trained=True).MODEL.WEIGHTS


def test_releases_belong_to_configs() -> None:
    assert set(model_zoo.list_releases()) <= set(model_zoo.list_models())
    assert all(0 < value < 100 for release in model_zoo.list_releases().values() for value in release.metrics.values())


@pytest.mark.parametrize("release", model_zoo.list_releases().values(), ids=lambda release: release.config)
def test_release_is_consistent(release: Release) -> None:
    assert release.licence.code
    assert (release.seconds is None) == (release.device == "")
    if release.url is not None:  # Detectron2 takes the kind of a file from its end
        assert re.fullmatch(r"https://[\w.-]+/\S+\.(pth|pkl)", release.url)
        assert release.file == release.url.rsplit("/", 1)[1]
    if release.megabytes is not None:  # it can only be that model's file
        cfg = model_zoo.get_config(release.config)
        cfg.MODEL.DEVICE = "cpu"
        size = sum(value.nbytes for value in build_model(cfg).state_dict().values()) / 1e6
        assert 0.99 < release.megabytes / size < 1.02, size


def test_get_builds_in_training_mode_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = model_zoo.get_config(SMALL)
    cfg.MODEL.WEIGHTS = ""
    monkeypatch.setattr(implementation, "get_config", lambda *_: cfg.clone())
    model = model_zoo.get(SMALL, device="cpu")
    assert model.training and model.device == torch.device("cpu")
    torch.save({"model": model.state_dict()}, tmp_path / "trained.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "trained.pth")
    torch.testing.assert_close(model_zoo.get(SMALL).state_dict(), model.state_dict(), rtol=0, atol=0)


LAZY = """
from detectron2.config import LazyCall as L
from torch import nn
model = L(nn.Linear)(in_features=3, out_features=2)
train = dict(init_checkpoint={weights!r})
"""


def test_lazy_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "_config_root", lambda: tmp_path)
    weights = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}
    torch.save(weights, tmp_path / "linear.pth")
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "linear.py").write_text(LAZY.format(weights=str(tmp_path / "linear.pth")))
    assert model_zoo.list_models() == ["plugin/linear.py"]
    model = model_zoo.get("plugin/linear.py", device="cpu")
    torch.testing.assert_close(dict(model.state_dict()), weights, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="not available"):
        model_zoo.get_config("plugin/linear.py", trained=True)


def test_table_is_current() -> None:
    table = (ROOT / "MODEL_ZOO.md").read_text()
    assert table == make_page(), "run `make model-zoo`"
    named = [line.split("`")[1] for line in table.splitlines() if line.startswith(("| `", "- `"))]
    assert sorted(named) == [name for name in model_zoo.list_models() if not name.startswith(("shapes/", "finetune/"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_readme_states_the_published_numbers(page: Path) -> None:
    text = page.read_text()
    assert TABLE_BEGIN in text and TABLE_END in text
    assert text == fill_tables(text), "run `make model-zoo`"
