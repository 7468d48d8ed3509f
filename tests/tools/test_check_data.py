"""check_data says what is in a dataset, and all that is wrong with its annotations and pictures."""

import json
import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from thin_models import THIN_MODELS

from pentamask.engine.checks import BadInput
from pentamask.tools import check_data


def _run(*words: str) -> None:
    check_data.main(check_data.get_parser().parse_args(list(words)))


@pytest.mark.parametrize("form", ["", "_panoptic", "_panoptic_separated"])
def test_counts_and_samples(shapes, tmp_path, capsys, form):
    name = f"shapes_val{form}"
    _run("--dataset", name, "--output", str(tmp_path), "--samples", "3")
    printed = capsys.readouterr().out
    assert f"{name}: {len(DatasetCatalog.get(name))} pictures\n  modes: RGB" in printed
    assert "Nothing is wrong with the data." in printed
    crosses = sum(a["category_id"] == 5 for r in DatasetCatalog.get("shapes_val") for a in r["annotations"])
    assert next(line for line in printed.splitlines() if line.startswith("cross")).split()[1] == str(crosses)
    assert Image.open(tmp_path / f"{name}.png").size == (3 * 320, 320)


@pytest.mark.parametrize("config", [*(f"shapes/{name}.yaml" for name in THIN_MODELS), "MaskRCNN/R_50_FPN_1x.py"])
def test_the_sets_of_a_config(shapes, capsys, config):
    lazy = ["dataloader.train.dataset.names=shapes_train", "dataloader.test.dataset.names=[shapes_val]"]
    lazy += ["dataloader.train.mapper.instance_mask_format=bitmask"]
    _run("--config-file", config, *(lazy if config.endswith(".py") else []))
    checked = re.findall(r"^(shapes_\w+): \d+ pictures", capsys.readouterr().out, re.MULTILINE)
    form = "_panoptic" if config.startswith("shapes/Panoptic") else ""
    assert sorted(checked) == [f"shapes_train{form}", f"shapes_val{form}"]


@pytest.fixture
def planted(tmp_path):
    """Registers "planted": a good picture turned by EXIF, a broken one, one of another size, and a long one."""
    sizes = {"turned": (60, 40), "broken": (8, 8), "other": (9, 8), "long": (2, 1000)}
    images, annotations = [], []
    for i, (name, (width, height)) in enumerate(sizes.items(), 1):
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "turned" else 1
        Image.fromarray(np.zeros((height, width), np.uint8)).save(tmp_path / f"{name}.png", exif=exif)
        images.append({"id": i, "file_name": f"{name}.png", "height": height, "width": 8 if name == "other" else width})
        box = {"bbox": [0, 0, 2, 8], "area": 16, "iscrowd": 0, "segmentation": [[0, 0, 2, 0, 2, 8, 0, 8]]}
        annotations.append({"id": i, "image_id": i, "category_id": 1, **box})
    (tmp_path / "broken.png").write_bytes(b"")
    contents = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "planted.json").write_text(json.dumps(contents))
    register_coco_instances("planted", {}, str(tmp_path / "planted.json"), str(tmp_path))
    yield
    DatasetCatalog.remove("planted")
    MetadataCatalog.pop("planted")


def test_bad_pictures_are_listed(planted, capsys):
    with pytest.raises(BadInput) as error:
        _run("--dataset", "planted")
    first, second = str(error.value).splitlines()[1:]
    assert "broken.png: it is empty or not a picture" in first
    assert second.endswith("other.png is 9 x 8, its annotations say 8 x 8")
    printed = capsys.readouterr().out
    assert "modes: L 3" in printed and "EXIF orientations: 6: 1" in printed


def test_an_unknown_dataset():
    with pytest.raises(BadInput, match="'shapes_trian', which is not a registered dataset. Did you mean shapes_train"):
        _run("--dataset", "shapes_trian")
