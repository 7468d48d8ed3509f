from detectron2.data import DatasetCatalog, MetadataCatalog

import pentamask  # noqa: F401
from pentamask.data.person_in_context import register_person_in_context


def test_person_in_context_is_registered_once():
    register_person_in_context()
    assert "pic_person_train" in DatasetCatalog and "pic_person_val" in DatasetCatalog
    metadata = MetadataCatalog.get("pic_person_val")
    assert metadata.json_file.endswith("pic/annotations/val_person.json")
    assert metadata.evaluator_type == "coco"
