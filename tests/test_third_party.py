"""Another Detectron2 project that only imports pentamask: own data set, own trainer, Detectron2's mapper."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from detectron2.config import get_cfg

before = get_cfg().dump()
import pentamask
assert get_cfg().dump() == before, "importing pentamask changed Detectron2's defaults"

from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from pentamask import model_zoo


class MyTrainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=DatasetMapper(cfg, is_train=True))


json_file, images, output, name = sys.argv[1:]
register_coco_instances("mine", {}, json_file, images)
cfg = get_cfg()
pentamask.add_pentamask_config(cfg)
cfg.merge_from_file(model_zoo.get_config_file(f"shapes/{name}.yaml"))
cfg.merge_from_list(
    ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", ("mine",), "DATASETS.TEST", (), "OUTPUT_DIR", output]
    + ["SOLVER.MAX_ITER", 2, "SOLVER.WARMUP_ITERS", 1, "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0]
    + ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value"]
)
trainer = MyTrainer(cfg)
trainer.train()
assert trainer.iter == 2
"""
NAMES = [f"{name}_R_50_thin" for name in ("BlendMask", "CenterMask_Lite", "YOLACT", "MaskRCNN", "PanopticSegFormer")]


@pytest.mark.parametrize("name", NAMES)
def test_trains_two_iterations_in_a_project_of_its_own(name: str, shapes: str, tmp_path: Path) -> None:
    root = Path(shapes)
    arguments = [root / "annotations/instances_train.json", root / "train", tmp_path / "out", name]
    script = tmp_path / "train_mine.py"
    script.write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert (tmp_path / "out/model_final.pth").is_file()


def test_registering_beside_it_keeps_detectron2s_names(shapes: str) -> None:
    """Nothing of Detectron2's registries or catalogs is replaced."""
    code = (
        "from detectron2.modeling import META_ARCH_REGISTRY as M, BACKBONE_REGISTRY as B\n"
        "from detectron2.data import DatasetCatalog as D\n"
        "import json\n"
        "before = [dict(M), dict(B), set(D.list())]\n"
        "import pentamask, pentamask\n"
        "after = [dict(M), dict(B), set(D.list())]\n"
        "assert all(after[i][k] is v for i in (0, 1) for k, v in before[i].items())\n"
        "assert before[2] <= after[2]\n"
        "print(json.dumps(sorted(set(after[0]) - set(before[0]))))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"BlendMask", "CenterMask", "YOLACT", "MaskRCNN", "PanopticSegFormer"} <= set(json.loads(run.stdout))
    assert "FCOS" not in json.loads(run.stdout)
