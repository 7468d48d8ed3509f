"""Another Detectron2 project that only imports pentamask: own data set, own trainer, Detectron2's mapper."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import DefaultTrainer
from torch import nn

from pentamask import model_zoo
from pentamask.engine import Trainer, build_optimizer
from pentamask.engine.checks import BadInput

SCRIPT = """
import sys
import torch
from detectron2.config import get_cfg

before = get_cfg().dump()
import pentamask
assert get_cfg().dump() == before, "importing pentamask changed Detectron2's defaults"

from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from pentamask import model_zoo
from pentamask.engine import Trainer


class MyTrainer(Trainer):
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
)
trainer = MyTrainer(cfg)
trainer.train()
assert trainer.iter == 2
expected = torch.optim.AdamW if cfg.SOLVER.OPTIMIZER == "ADAMW" else torch.optim.SGD
assert isinstance(trainer.optimizer, expected)
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


@pytest.mark.parametrize("clip", [True, False])
def test_detectron2s_own_trainer_refuses_an_optimizer_that_it_would_ignore(clip: bool) -> None:
    cfg = model_zoo.get_config("shapes/YOLACT_R_50_thin.yaml")
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = clip
    for config in (cfg, cfg.clone(), copy.deepcopy(cfg)):
        with pytest.raises(ValueError, match=r"SOLVER.* pentamask.engine.Trainer"):
            DefaultTrainer.build_optimizer(config, nn.Linear(2, 2))
    assert isinstance(build_optimizer(cfg, nn.Linear(2, 2)), torch.optim.AdamW)


def test_detectron2s_own_trainer_keeps_what_it_knows() -> None:
    cfg = model_zoo.get_config("shapes/BlendMask_R_50_thin.yaml")
    assert isinstance(DefaultTrainer.build_optimizer(cfg, nn.Linear(2, 2)), torch.optim.SGD)
    cfg.merge_from_list(["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"])
    assert yaml.unsafe_load(cfg.dump())["SOLVER"]["MOMENTUM"] == 0.9


def test_other_class_counts_are_refused_with_detectron2s_own_mapper(shapes: str, tmp_path: Path) -> None:
    class OwnLoader(Trainer):
        @classmethod
        def build_train_loader(cls, cfg: CfgNode) -> Iterable:
            return build_detection_train_loader(cfg, mapper=DatasetMapper(cfg, is_train=True))

    cfg = model_zoo.get_config("shapes/MaskRCNN_R_50_thin.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.OUTPUT_DIR = "cpu", 80, str(tmp_path)
    with pytest.raises(BadInput, match="6 thing_classes, but MODEL.ROI_HEADS.NUM_CLASSES is 80"):
        OwnLoader(cfg)
