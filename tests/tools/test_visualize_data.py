"""visualize_data draws annotations, and what the training loader of each thin model gives."""

import pytest
from PIL import Image
from thin_models import THIN_MODELS

from pentamask.engine.checks import BadInput
from pentamask.tools import visualize_data


def drawn(*words: str) -> list[str]:
    return visualize_data.main(visualize_data.get_parser().parse_args(list(words)))


@pytest.mark.parametrize("name", THIN_MODELS)
@pytest.mark.parametrize("source", visualize_data.SOURCES)
def test_thin_models(shapes, tmp_path, name, source):
    words = ["--config-file", f"shapes/{name}.yaml", "--source", source, "--num", "2", "--output", str(tmp_path)]
    paths = drawn(*words, "SEED", "1")
    assert len(paths) == 2
    for path in paths:
        assert len(Image.open(path).getcolors(1 << 20)) > 50


def test_a_lazy_config(lazy, tmp_path):
    _, name, *overrides = lazy("YOLACT/yolact_resnet50.py")
    words = ["--config-file", name, "--source", "dataloader", "--num", "1", "--output", str(tmp_path / "drawn")]
    assert len(drawn(*words, *overrides)) == 1


def test_mistakes(tmp_path):
    words = ["--config-file", "shapes/YOLACT_R_50_thin.yaml", "--output", str(tmp_path)]
    with pytest.raises(BadInput, match="'nothing', which is not a registered dataset"):
        drawn(*words, "DATASETS.TRAIN", "('nothing',)")
