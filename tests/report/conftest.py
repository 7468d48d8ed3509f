import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from report_samples import write_results, write_truth

import pentamask  # noqa: F401


@pytest.fixture
def run(tmp_path):
    """An OUTPUT_DIR with the evaluation of "two_pictures", which is registered while it is used."""
    register_coco_instances("two_pictures", {}, write_truth(tmp_path), str(tmp_path))
    DatasetCatalog.get("two_pictures")  # learns the names of the classes
    folder = tmp_path / "out"
    (folder / "inference").mkdir(parents=True)
    (folder / "config.yaml").write_text("DATASETS:\n  TEST: !!python/tuple\n  - two_pictures\nNAME: <b>bold</b>\n")
    write_results(folder / "inference")
    yield folder
    DatasetCatalog.remove("two_pictures")
    MetadataCatalog.remove("two_pictures")
