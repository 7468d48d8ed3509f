"""tools.explain on all five models, untrained and tiny."""

import os

import pytest
from PIL import Image

from pentamask.engine.checks import BadInput
from pentamask.tools import explain

EXPECTED = {
    "BlendMask/R_50_1x.py": {"bases", "semantic", "attention", "blend_1"},
    "CenterMask/centermask_R_50_FPN_ms_3x.py": {"levels", "attention", "masks"},
    "MaskRCNN/R_50_FPN_1x.py": {"proposals", "sampling", "masks", "pasted"},
    "PanopticSegFormer/R_50_2x.py": {"sampling", "attention", "masks", "merging"},
    "YOLACT/yolact_resnet50.py": {"prototypes", "sum_1", "crop"},
}


def _run(*words: str) -> list[str]:
    return explain.main(explain.get_parser().parse_args([*words]))


@pytest.mark.parametrize("name", EXPECTED)
def test_pictures_of_every_model(shapes, lazy, tmp_path, name):
    source, (flag, file, *overrides) = os.path.join(shapes, "val", "000001.jpg"), lazy(name)
    words = ["--input", source, "--output", str(tmp_path / "new"), "--confidence-threshold", "0", "--instances", "1"]
    paths = _run(flag, file, *words, "--opts", *overrides)
    assert {os.path.basename(path).removesuffix(".png") for path in paths} == EXPECTED[name]
    assert all(os.path.dirname(path) == str(tmp_path / "new" / "000001") for path in paths)
    assert all(Image.open(path).width > 100 for path in paths)


def test_mistakes(shapes, tiny, tmp_path, capsys):
    picture, out = os.path.join(shapes, "val", "000001.jpg"), str(tmp_path / "new")
    words = ["--config-file", "shapes/BlendMask_R_50_thin.yaml", "--output", out]
    with pytest.raises(BadInput, match="no such file"):
        _run(*words, "--input", "no.jpg")
    with pytest.raises(BadInput, match="would overwrite each other"):
        _run(*words, "--input", picture, picture)
    with pytest.raises(BadInput, match="SemanticSegmentor declares no `explain`"):
        _run(*words, "--input", picture, "--opts", *tiny, "MODEL.META_ARCHITECTURE", "SemanticSegmentor")
    paths = _run(*words, "--confidence-threshold", "1", "--input", picture, "--opts", *tiny)
    assert [os.path.basename(path) for path in paths] == ["bases.png", "semantic.png"]
    assert f"{picture}: no instance scores 1.0 or more" in capsys.readouterr().out
