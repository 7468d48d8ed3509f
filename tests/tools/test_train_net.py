"""train_net.py from end to end on tiny shapes: train, resume, evaluate, and one readable error per mistake."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model

from pentamask.checkpoint.loader import CheckpointError
from pentamask.engine.checks import BadInput
from pentamask.engine.load_config import find_config_file, load_config, load_lazy_config
from pentamask.tools import train_net

CONFIG = "configs/shapes/BlendMask_R_50_thin.yaml"
YOLACT = "YOLACT/yolact_resnet50.py"
LOSSES = {
    "BlendMask/R_50_1x.py": {"loss_fcos_cls", "loss_basis_sem", "loss_mask"},
    "CenterMask/centermask_R_50_FPN_ms_3x.py": {"loss_fcos_cls", "loss_mask", "loss_maskiou"},
    "MaskRCNN/R_50_FPN_1x.py": {"loss_rpn_cls", "loss_box_reg", "loss_mask"},
    "PanopticSegFormer/R_50_2x.py": {"loss_cls", "loss_mask_things", "loss_mask_stuff"},
    "YOLACT/yolact_resnet50.py": {"B", "C", "M", "S"},
}


def _run(*words: str) -> dict:
    return train_net.main(default_argument_parser().parse_args(["--num-gpus", "0", *words]))


def test_train_resume_and_evaluate(tiny, tmp_path):
    out = tmp_path / "out"
    results = _run("--config-file", CONFIG, *tiny)
    assert set(results) == {"bbox", "segm"}
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    expected = {"config.yaml", "log.txt", "metrics.json", "model_final.pth", "inference"}
    assert expected <= set(os.listdir(out))
    assert any(name.startswith("events.out.tfevents") for name in os.listdir(out))

    _run("--config-file", CONFIG, "--resume", *tiny, "SOLVER.MAX_ITER", "3")
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    trained = [line["iteration"] for line in lines if "total_loss" in line]
    assert trained == [1, 2]  # the second run did the third iteration only
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 2
    assert "Starting training from iteration 2" in (out / "log.txt").read_text()

    evaluated = _run("--config-file", CONFIG, "--eval-only", *tiny, "MODEL.WEIGHTS", str(out / "model_final.pth"))
    assert evaluated["segm"].keys() == results["segm"].keys()
    predictions = json.loads((out / "inference" / "coco_instances_results.json").read_text())
    assert predictions and {"image_id", "category_id", "bbox", "score", "segmentation"} <= set(predictions[0])


def test_dry_run(tiny, tmp_path, capsys):
    args = train_net.get_parser().parse_args(
        [
            "--num-gpus",
            "0",
            "--dry-run",
            "--config-file",
            CONFIG,
            *tiny,
            "SOLVER.MAX_ITER",
            "100",
            "TEST.EVAL_PERIOD",
            "40",
        ]
    )
    assert train_net.main(args) == {}
    said = capsys.readouterr().out
    assert re.search(r"train 100 iterations of 2 pictures, [\d.]+ s each, with 1 processes on \d+ CPU threads\n", said)
    assert re.search(r"evaluate on shapes_val: 6 pictures, [\d.]+ s each\nevaluate 3 times, .* every 5000 iter", said)
    assert re.search(r"time: about .* of training and .* of evaluation\nmemory: [\d.]+ GiB of main memory", said)
    assert not (tmp_path / "out").exists()
    args.resume = True
    with pytest.raises(BadInput, match="--dry-run tries a new training"):
        train_net.main(args)


@pytest.mark.parametrize("name", LOSSES)
def test_dry_run_of_a_lazy_config(lazy, tmp_path, capsys, name):
    words = lazy(name)
    train_net.main(train_net.get_parser().parse_args(["--num-gpus", "0", "--dry-run", *words]))
    assert "train 2 iterations of 2 pictures" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_early_stopping(tiny, tmp_path):
    words = ["SOLVER.EARLY_STOPPING.METRIC", "segm/AP", "SOLVER.EARLY_STOPPING.PATIENCE", "1", "TEST.EVAL_PERIOD", "1"]
    _run("--config-file", CONFIG, *tiny, "SOLVER.MAX_ITER", "9", "SOLVER.BASE_LR", "1e-12", *words)
    final = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert final["iteration"] == 1  # of weights that do not change, the second evaluation is no better


@pytest.mark.parametrize("name", LOSSES)
def test_early_stopping_of_a_lazy_config(lazy, tmp_path, name):
    stopping = ["metric=segm/AP", "patience=1"]
    words = lazy(name) + [f"train.early_stopping.{word}" for word in stopping]
    _run(*words, "train.eval_period=1", "train.max_iter=9", "optimizer.lr=1e-12")
    assert torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["iteration"] == 1


@pytest.mark.parametrize("config", [CONFIG, YOLACT, "PanopticSegFormer/R_50_2x.py"])
def test_test_time_augmentation(config, tiny, lazy, tmp_path):
    """After a training its results are returned and written, as those of the evaluation are; also without training."""
    if config == CONFIG:
        words = ["--config-file", CONFIG, *tiny, "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)"]
    else:
        words = [*lazy(config), "train.test_aug.enabled=true", "train.test_aug.min_sizes=[64]"]
    results = _run(*words)
    tasks = {"bbox", "segm", *(["panoptic_seg"] if config.startswith("Panoptic") else [])}
    assert set(results) == tasks | {f"{task}_TTA" for task in tasks}
    assert (tmp_path / "out" / "inference_TTA" / "coco_instances_results.json").is_file()
    last = json.loads((tmp_path / "out" / "metrics.json").read_text().splitlines()[-1])
    for task, values in results.items():
        for metric, value in values.items():
            assert last[f"{task}/{metric}"] == pytest.approx(value, nan_ok=True)
    assert set(_run("--eval-only", *words)) == set(results)


def test_panoptic_data_gets_all_three_evaluations(tiny):
    panoptic = {
        "DATASETS.TRAIN": "('shapes_train_panoptic_separated',)",
        "DATASETS.TEST": "('shapes_val_panoptic_separated',)",
        "MODEL.PANOPTIC_FPN.COMBINE.ENABLED": True,
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 4,
    }
    results = _run("--config-file", CONFIG, *tiny, *(str(word) for item in panoptic.items() for word in item))
    assert set(results) == {"sem_seg", "bbox", "segm", "panoptic_seg"}


def test_a_model_zoo_name_and_the_script_in_the_checkout(tiny):
    """As a user would start it; bad input ends in one line and exit status 1."""
    command = [sys.executable, "-m", "pentamask.tools.train_net", "--config-file", "shapes/BlendMask_R_50_thin.yaml"]
    done = subprocess.run([*command, *tiny, "MODEL.FCOS.NUM_CLASSES", "7"], capture_output=True, text=True)
    assert done.returncode == 1
    last_line = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r"train_net: error: .*6 thing_classes.*MODEL.FCOS.NUM_CLASSES is 7\..*", last_line)
    assert "Traceback" not in done.stderr


def test_a_checkpoint_of_another_model_ends_in_one_line(tiny, tmp_path):
    torch.save({"model": {"other.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    command = [sys.executable, "train_net.py", "--config-file", CONFIG, "--eval-only", *tiny]
    done = subprocess.run([*command, "MODEL.WEIGHTS", tmp_path / "other.pth"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last_line = done.stderr.strip().splitlines()[-1]
    assert re.match(r"train_net: error: .*other.pth: This checkpoint does not belong to the BlendMask", last_line)


def write_backbone(model: torch.nn.Module, path: Path) -> str:
    """The body of a model without its heads, as an ImageNet file."""
    torch.save({k: v for k, v in model.state_dict().items() if k.startswith("backbone.bottom_up.")}, path)
    return str(path)


def test_only_a_training_takes_a_backbone(tiny, tmp_path):
    weights = write_backbone(build_model(load_config(CONFIG, tiny)), tmp_path / "body.pth")
    words = ["--config-file", CONFIG, *tiny, "MODEL.WEIGHTS", weights]
    assert set(_run(*words)) == {"bbox", "segm"}
    with pytest.raises(CheckpointError, match=r"body\.pth: .*evaluation mode needs every entry"):
        _run("--eval-only", *words)
    assert set(_run("--eval-only", *words, "MODEL.WEIGHTS_PARTIAL", "True")) == {"bbox", "segm"}


def test_only_a_training_of_a_lazy_config_takes_a_backbone(lazy, tmp_path):
    words = lazy("BlendMask/R_50_1x.py")
    model = instantiate(load_lazy_config(find_config_file(words[1]), words[2:]).model)
    words.append(f"train.init_checkpoint={write_backbone(model, tmp_path / 'body.pth')}")
    assert set(_run(*words)) == {"bbox", "segm"}
    with pytest.raises(CheckpointError, match=r"body\.pth: .*evaluation mode needs every entry"):
        _run("--eval-only", *words)
    assert set(_run("--eval-only", *words, "train.weights_partial=True")) == {"bbox", "segm"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["DATASETS.TRAIN", "('shapes_trian',)"], r"DATASETS.TRAIN names 'shapes_trian'.*Did you mean shapes_train"),
        (["DATASETS.TRAIN", "()"], r"DATASETS.TRAIN is empty"),
        (["MODEL.WEIGHTS", "no/such.pth"], r"MODEL.WEIGHTS: 'no/such.pth' does not exist"),
        (["MODEL.FCOS.NUM_CLASES", "6"], r"command line: Non-existent key: .*Did you mean MODEL.FCOS.NUM_CLASSES"),
        (["SOLVER.MAX_ITER", "many"], r"command line: Type mismatch.*SOLVER.MAX_ITER"),
        (["MODEL.BASIS_MODULE.NUM_CLASSES", "80"], r"6 thing_classes, but MODEL.BASIS_MODULE.NUM_CLASSES is 80"),
        (["INPUT.MASK_FORMAT", "polygon"], r"INPUT.MASK_FORMAT 'polygon'.*set INPUT.MASK_FORMAT bitmask"),
        (["DATASETS.TRAIN", "('coco_2017_train',)"], r"coco_2017_train.*instances_train2017.json does not exist"),
        (["DATASETS.TEST", "('coco_2017_val',)"], r"coco_2017_val.*instances_val2017.json does not exist"),
    ],
)
def test_mistakes_are_explained(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        _run("--config-file", CONFIG, *tiny, *options)


def test_config_files_that_cannot_be_used(tiny, tmp_path):
    with pytest.raises(BadInput, match=r"no/such.yaml: no such file"):
        _run("--config-file", "no/such.yaml", *tiny)
    with pytest.raises(BadInput, match=r"--config-file is missing"):
        _run(*tiny)
    bad = tmp_path / "bad.yaml"
    bad.write_text("VERSION: 2\nSOLVER:\n  BASE_LRR: 0.1\n")
    with pytest.raises(
        BadInput, match=r"bad.yaml: Non-existent config key: SOLVER.BASE_LRR.*Did you mean SOLVER.BASE_LR"
    ):
        _run("--config-file", str(bad), *tiny)
    bad.write_text("SOLVER: [1\n")
    with pytest.raises(BadInput, match=r"bad.yaml"):
        _run("--config-file", str(bad), *tiny)
    bad.write_text("_BASE_: 'missing.yaml'\n")
    with pytest.raises(BadInput, match=r"bad.yaml.*missing.yaml"):
        _run("--config-file", str(bad), *tiny)


def test_a_lazy_config_trains_resumes_and_is_evaluated(lazy, tmp_path):
    out = tmp_path / "out"
    words = lazy("BlendMask/R_50_1x.py")
    assert set(_run(*words)) == {"bbox", "segm"}
    assert {"config.yaml", "metrics.json", "model_final.pth", "inference"} <= set(os.listdir(out))
    _run("--resume", *words, "train.max_iter=3")
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 2
    checkpoint = f"train.init_checkpoint={out / 'model_final.pth'}"
    assert set(_run("--eval-only", *words, checkpoint)) == {"bbox", "segm"}


def test_several_test_sets_are_evaluated_one_by_one(lazy, tiny, tmp_path):
    """Each has results of its own; "shapes_again" has classes, and neither a file nor a type."""
    again = [{**record} for record in DatasetCatalog.get("shapes_val")[:2]]
    DatasetCatalog.register("shapes_again", lambda: again)
    MetadataCatalog.get("shapes_again").thing_classes = MetadataCatalog.get("shapes_val").thing_classes
    try:
        sets = ["shapes_val", "shapes_again"]
        words = [*lazy("BlendMask/R_50_1x.py"), f"dataloader.test.dataset.names=[{','.join(sets)}]"]
        for results in (
            _run("--eval-only", *words),
            _run("--eval-only", "--config-file", CONFIG, *tiny, "DATASETS.TEST", str(sets)),
        ):
            assert {name: set(tasks) for name, tasks in results.items()} == dict.fromkeys(sets, {"bbox", "segm"})
        for name in sets:
            assert (tmp_path / "out" / "inference" / name / "coco_instances_results.json").exists()
    finally:
        DatasetCatalog.remove("shapes_again")
        MetadataCatalog.pop("shapes_again")


def test_what_cannot_be_evaluated_is_said_before_training(tiny, tmp_path):
    with pytest.raises(BadInput, match=r"'shapes_val_panoptic_stuffonly' cannot be evaluated: .* 'sem_seg', which thi"):
        _run("--config-file", CONFIG, *tiny, "DATASETS.TEST", "('shapes_val_panoptic_stuffonly',)")
    with pytest.raises(BadInput, match=r"SOLVER.BEST_METRIC is 'segm/ap'; the evaluation gives .*segm/AP"):
        _run("--config-file", CONFIG, *tiny, "SOLVER.BEST_METRIC", "segm/ap")
    assert (tmp_path / "out" / "metrics.json").read_text() == ""


@pytest.mark.parametrize("name", LOSSES)
def test_every_lazy_config_trains_and_is_evaluated(lazy, tmp_path, name):
    results = _run(*lazy(name))
    assert set(results) == {"bbox", "segm"} | ({"panoptic_seg"} if name.startswith("Panoptic") else set())
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [1]
    assert LOSSES[name] <= set(lines[0]) and math.isfinite(lines[0]["total_loss"])
    saved = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 1 and saved["model"].keys() == saved_keys(lazy(name))


@pytest.mark.parametrize("name", LOSSES)
def test_a_lazy_training_resumes_exactly(lazy, tmp_path, name):
    words = [*lazy(name), "train.max_iter=4", "train.checkpointer.period=2"]
    _run(*words)
    out = tmp_path / "out"
    whole = torch.load(out / "model_final.pth")["model"]
    for lost in ("model_final.pth", "model_0000003.pth", "last_checkpoint"):
        (out / lost).unlink()
    _run("--resume", *words)
    again = torch.load(out / "model_final.pth")["model"]
    assert all(torch.equal(again[key], whole[key]) for key in whole)


@pytest.mark.parametrize("name", LOSSES)
def test_lazy_training_and_evaluation_in_bfloat16(lazy, tmp_path, name):
    precision = ["train.amp.enabled=True", "train.amp.precision=bf16"]
    precision += ["train.test_amp.enabled=True", "train.test_amp.precision=bf16", "train.model_ema.enabled=True"]
    results = _run(*lazy(name), *precision)
    assert {"bbox", "segm", "bbox_EMA", "segm_EMA"} <= set(results)
    weights = torch.load(tmp_path / "out" / "model_final_ema.pth")["model"]
    assert all(value.isfinite().all() and value.dtype != torch.bfloat16 for value in weights.values())


def saved_keys(words: list[str]) -> set[str]:
    """Parameters and buffers of the model that the words describe."""
    return instantiate(load_lazy_config(find_config_file(words[1]), words[2:]).model).state_dict().keys()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.max_itre=3"], r"non-existent key train.max_itre. Did you mean train.max_iter"),
        (["SOLVER.MAX_ITER", "3"], r"'SOLVER.MAX_ITER' of a LazyConfig must look like key=value"),
        (["train.init_checkpoint=no.pth"], r"train.init_checkpoint: 'no.pth' does not exist"),
        (["dataloader.test.dataset.names=shapes_vall"], r"test.dataset.names names 'shapes_vall'.*shapes_val"),
        (["model.proposal_generator.num_classes=80"], r"'shapes_train' has 6 thing_classes, but model.proposal_gen"),
        (["--eval-only", "model.proposal_generator.num_classes=5"], r"'shapes_val' has 6 thing_classes.*classes is 5"),
    ],
)
def test_mistakes_in_lazy_configs_are_explained(lazy, overrides, message):
    flags = [word for word in overrides if word.startswith("--")]
    with pytest.raises(BadInput, match=message):
        _run(*flags, *lazy("BlendMask/R_50_1x.py"), *(word for word in overrides if word not in flags))


def test_more_processes_than_gpus():
    command = [sys.executable, "train_net.py", "--num-gpus", "99"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "--num-gpus 99: this machine has" in done.stderr.strip().splitlines()[-1]


def test_without_a_gpu_training_falls_back_to_the_cpu_with_one_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _run("--config-file", CONFIG, *tiny, "MODEL.DEVICE", "cuda")
    assert (tmp_path / "out" / "log.txt").read_text().count("No CUDA device is available") == 1
    assert "DEVICE: cpu" in (tmp_path / "out" / "config.yaml").read_text()


def test_expected_results_are_verified(tiny):
    with pytest.raises(SystemExit) as exit:
        _run("--config-file", CONFIG, "--eval-only", *tiny, "TEST.EXPECTED_RESULTS", "[['segm', 'AP', 99.0, 0.1]]")
    assert exit.value.code == 1
