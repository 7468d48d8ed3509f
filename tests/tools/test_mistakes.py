"""Mistakes in configs and flags: each ends in one message that names it, before the first iteration."""

import importlib
import subprocess
import sys

import pytest
from detectron2.engine import default_argument_parser

from pentamask.engine.command_line import describe_error
from pentamask.tools import train_net

BLENDMASK = "shapes/BlendMask_R_50_thin.yaml"
CENTERMASK = "shapes/CenterMask_Lite_R_50_thin.yaml"
MASKRCNN = "shapes/MaskRCNN_R_50_thin.yaml"
PANOPTIC = "shapes/PanopticSegFormer_R_50_thin.yaml"
YOLACT = "shapes/YOLACT_R_50_thin.yaml"


def _message(*words: str) -> str:
    """What the command line would end with."""
    with pytest.raises(Exception) as error:
        train_net.main(default_argument_parser().parse_args(["--num-gpus", "0", *words]))
    message = describe_error(error.value)
    assert "traceback" not in message, message  # else nobody expected it
    return message


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.yaml": "_BASE_: b.yaml", "b.yaml": "_BASE_: a.yaml"}, "_BASE_ that leads back to itself"),
        ({"a.yaml": "_BASE_: a.yaml"}, "_BASE_ that leads back to itself"),
        ({"a.yaml": "_BASE_: nowhere.yaml"}, "nowhere.yaml"),
        ({"a.yaml": ""}, "a.yaml does not hold the keys and values"),
        ({"a.yaml": "- 1\n- 2"}, "a.yaml does not hold the keys and values"),
        ({"a.yaml": "hello"}, "a.yaml does not hold the keys and values"),
        ({"a.yaml": "SOLVER: [1"}, "a.yaml: while parsing"),
        ({"a.yaml": "VERSION: 2\nSOLVER: 3"}, "a.yaml: "),
        ({"a.yaml": "VERSION: 2\nSOLVER: {MAX_ITRE: 3}"}, "Did you mean SOLVER.MAX_ITER"),
        ({"a.py": "x ="}, "a.py: SyntaxError"),
        ({"a.py": "raise RuntimeError('no')"}, "a.py: RuntimeError: no"),
        ({"a.py": "x = 1"}, "has no model, dataloader, optimizer, lr_multiplier, train"),
    ],
)
def test_config_files(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    message = _message("--config-file", str(tmp_path / next(iter(files))))
    assert expected in message and "\n" not in message


SMALL = {  # that nothing is built from
    "SOLVER.MAX_ITER": ("0", "SOLVER.MAX_ITER is 0: it must be 1 or more"),
    "SOLVER.IMS_PER_BATCH": ("-2", "SOLVER.IMS_PER_BATCH is -2"),
    "SOLVER.BASE_LR": ("-0.1", "SOLVER.BASE_LR is -0.1"),
    "SOLVER.WEIGHT_DECAY": ("-1.0", "SOLVER.WEIGHT_DECAY is -1.0"),
    "SOLVER.CHECKPOINT_PERIOD": ("0", "SOLVER.CHECKPOINT_PERIOD is 0"),
    "SOLVER.CHECKPOINT_KEEP": ("-1", "SOLVER.CHECKPOINT_KEEP is -1"),
    "SOLVER.WARMUP_ITERS": ("-1", "SOLVER.WARMUP_ITERS is -1"),
    "SOLVER.STEPS": ("(2,1)", "SOLVER.STEPS is (2, 1): give the iterations in rising order"),
    "SOLVER.MAX_ITERS": ("2", "Non-existent key: SOLVER.MAX_ITERS. Did you mean SOLVER.MAX_ITER"),
    "SOLVER": ("2", "Type mismatch"),
    "SEED": ("abc", "SEED"),
    "DATASETS.TRAIN": ("shapes_train", "DATASETS.TRAIN"),
    "DATALOADER.NUM_WORKERS": ("-1", "DATALOADER.NUM_WORKERS is -1"),
    "INPUT.MIN_SIZE_TRAIN": ("(-64,)", "INPUT.MIN_SIZE_TRAIN is (-64,)"),
    "INPUT.MIN_SIZE_TEST": ("-64", "INPUT.MIN_SIZE_TEST is -64"),
    "INPUT.MAX_SIZE_TRAIN": ("0", "INPUT.MAX_SIZE_TRAIN is 0"),
    "INPUT.FORMAT": ("XYZ", "INPUT.FORMAT is 'XYZ'; choose one of BGR, RGB, L"),
    "MODEL.PIXEL_MEAN": ("[1.0,2.0]", "MODEL.PIXEL_MEAN has 2 numbers; INPUT.FORMAT 'BGR' has 3 channels"),
    "MODEL.PIXEL_STD": ("[0.0,1.0,1.0]", "MODEL.PIXEL_STD is [0.0, 1.0, 1.0]"),
    "MODEL.DEVICE": ("gpu", "MODEL.DEVICE is 'gpu'"),
    "MODEL.META_ARCHITECTURE": ("BlendMaks", "'BlendMaks' is not registered. Did you mean BlendMask?"),
    "MODEL.FCOS.INFERENCE_TH_TEST": ("2.0", "MODEL.FCOS.INFERENCE_TH_TEST is 2.0: a score is between 0 and 1"),
    "TEST.DETECTIONS_PER_IMAGE": ("0", "TEST.DETECTIONS_PER_IMAGE is 0"),
    "TEST.EVAL_PERIOD": ("-1", "TEST.EVAL_PERIOD is -1"),
    "TEST.EXPECTED_RESULTS": ("[['segm','AP']]", "TEST.EXPECTED_RESULTS has ['segm', 'AP']"),
}


@pytest.mark.parametrize("key", SMALL)
def test_values_that_nothing_can_be_done_with(tiny, tmp_path, key):
    value, expected = SMALL[key]
    assert expected in _message("--config-file", BLENDMASK, *tiny, key, value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        (BLENDMASK, "MODEL.RESNETS.DEPTH 51", "KeyError: 51. Look at MODEL.RESNETS.DEPTH 51."),
        (YOLACT, "MODEL.RESNETS.DEPTH 51", "Look at MODEL.RESNETS.DEPTH 51."),
        (PANOPTIC, "MODEL.RESNETS.DEPTH 51", "Look at MODEL.RESNETS.DEPTH 51."),
        (BLENDMASK, "MODEL.BACKBONE.NAME build_resnet", "Look at MODEL.BACKBONE.NAME build_resnet."),
        (BLENDMASK, "MODEL.FCOS.NUM_CLASSES -1", "Look at MODEL.FCOS.NUM_CLASSES -1."),
        (MASKRCNN, "MODEL.ROI_HEADS.NAME NoHeads", "Look at MODEL.ROI_HEADS.NAME NoHeads."),
        (MASKRCNN, "MODEL.ROI_BOX_HEAD.NAME NoHead", "Look at MODEL.ROI_BOX_HEAD.NAME NoHead."),
        (CENTERMASK, "MODEL.ROI_MASK_HEAD.NAME NoHead", "Look at MODEL.ROI_MASK_HEAD.NAME NoHead."),
        (MASKRCNN, "MODEL.PROPOSAL_GENERATOR.NAME NoRPN", "Look at MODEL.PROPOSAL_GENERATOR.NAME NoRPN."),
        (MASKRCNN, "MODEL.ROI_BOX_HEAD.POOLER_TYPE X", "Look at MODEL.ROI_BOX_HEAD.POOLER_TYPE X."),
        (MASKRCNN, "MODEL.ROI_HEADS.IN_FEATURES ['p9']", "Look at MODEL.ROI_HEADS.IN_FEATURES ['p9']."),
        (MASKRCNN, "MODEL.RPN.IOU_THRESHOLDS [0.9,0.1]", "AssertionError: `assert all([low <= high"),
        (MASKRCNN, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 0", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE is 0"),
        (BLENDMASK, "MODEL.FPN.NORM BNN", "Look at MODEL.FPN.NORM BNN."),
        (BLENDMASK, "MODEL.FCOS.IN_FEATURES ['p3','p9']", "MODEL.FCOS.IN_FEATURES names ['p9']"),
        (BLENDMASK, "MODEL.FCOS.LOC_LOSS_TYPE xyz", "MODEL.FCOS.LOC_LOSS_TYPE is 'xyz'; choose"),
        (BLENDMASK, "MODEL.BLENDMASK.ATTN_SIZE -1", "The model cannot be run on the first picture of 'shapes_val'"),
        (YOLACT, "MODEL.YOLACT.NMS_TYPE soft", "MODEL.YOLACT.NMS_TYPE is 'soft'; choose"),
        (YOLACT, "MODEL.YOLACT.IMAGE_SIZE -1", "The model cannot be run on the first picture of 'shapes_val'"),
        (PANOPTIC, "MODEL.PANOPTIC_SEGFORMER.NUM_QUERIES 0", "MODEL.PANOPTIC_SEGFORMER.NUM_QUERIES is 0"),
        (BLENDMASK, "SOLVER.OPTIMIZER LION", "SOLVER.OPTIMIZER is 'LION'; choose"),
        (BLENDMASK, "SOLVER.LR_SCHEDULER_NAME Cosine", "Look at SOLVER.LR_SCHEDULER_NAME Cosine."),
        (BLENDMASK, "SOLVER.WARMUP_METHOD sine", "Look at SOLVER.WARMUP_METHOD sine."),
        (BLENDMASK, "INPUT.MASK_FORMAT rle", "The first batch cannot be trained on: AssertionError: rle"),
        (BLENDMASK, "INPUT.RANDOM_FLIP diagonal", "At least one of horiz or vert has to be True"),
        (BLENDMASK, "INPUT.CROP.ENABLED True INPUT.CROP.SIZE [2.0,2.0]", "Crop size is larger than image size"),
    ],
)
def test_models_that_cannot_be_built_or_trained(tiny, tmp_path, config, options, expected):
    small = tiny if config in (BLENDMASK, CENTERMASK) else [*tiny[:4], *tiny[10:]]  # without FCOS
    message = _message("--config-file", config, *small, *options.split())
    assert expected in message and "\n" not in message
    assert (
        "Starting training" not in (tmp_path / "out" / "log.txt").read_text() if (tmp_path / "out").exists() else True
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.max_iter=0", "train.max_iter is 0: it must be 1 or more"),
        ("train.checkpointer.period=0", "train.checkpointer.period is 0"),
        ("train.device=gpu", "train.device is 'gpu'"),
        ("train.max_iter=[", "On the command line: "),
        ("dataloader.train.total_batch_size=-1", "dataloader.train.total_batch_size is -1"),
        ("dataloader.train.num_workers=-1", "dataloader.train.num_workers is -1"),
        (
            "model.proposal_generator.num_classes=-1",
            "This config cannot be built: RuntimeError: Trying to create tensor",
        ),
        ("model.nothing=1", "This config cannot be built: TypeError: "),
        ("optimizer.lr=-1", "optimizer.lr is -1"),
        ("train.checkpointer.best_metric=foo", "train.checkpointer.best_metric is 'foo'; the evaluation gives bbox/AP"),
    ],
)
def test_lazy_configs(lazy, override, expected):
    message = _message(*lazy("BlendMask/R_50_1x.py"), override)
    assert expected in message and "\n" not in message


def test_output_folders_that_are_files(tiny, lazy, tmp_path):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file")
    assert f"OUTPUT_DIR '{path}' cannot be made" in _message("--config-file", BLENDMASK, *tiny, "OUTPUT_DIR", path)
    assert "train.output_dir" in _message(*lazy("BlendMask/R_50_1x.py"), f"train.output_dir={path}")


def test_flags_behind_the_options(tiny):
    message = _message("--config-file", BLENDMASK, *tiny, "--resume")
    assert message.startswith("--resume must stand before the config's keys and values")


@pytest.mark.parametrize(
    "words",
    [
        ["train_net", "--num-gpus", "-1", "--config-file", BLENDMASK],
        ["train_net", "--config-file", "."],
        ["demo", "--config-file", "no.yaml", "--input", "a.jpg"],
        ["check_data", "--dataset", "nothing"],
        ["convert_weights", "no.pth", "new.pth", "--model", "no"],
        ["train_demo", "SOLVER.MAX_ITER", "0"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_every_tool_says_it_in_one_line(words, monkeypatch, capsys):
    tool = __import__(f"pentamask.tools.{words[0]}", fromlist=["cli"])
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as exit:
        tool.cli()
    shown = capsys.readouterr().err
    assert exit.value.code == 1 and "Traceback" not in shown
    assert shown.strip().splitlines()[-1].startswith(f"{words[0]}: error: ")


def test_the_line_and_the_traceback_as_a_user_meets_them(tiny, tmp_path):
    command = [sys.executable, "train_net.py", "--num-gpus", "0", "--config-file", BLENDMASK, *tiny]
    done = subprocess.run([*command, "MODEL.RESNETS.DEPTH", "51"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        done.stderr.strip().splitlines()[-1].startswith("train_net: error: This config cannot be built: KeyError: 51")
    )
    assert "Traceback (most recent call last)" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("tool", "words", "flag"),
    [
        ("benchmark", ["--config-file", BLENDMASK, "--rounds", "0"], "--rounds"),
        ("benchmark", ["--config-file", BLENDMASK, "--batch-size", "0"], "--batch-size"),
        ("check_data", ["--dataset", "shapes_val", "--samples", "0"], "--samples"),
        ("demo", ["--video-input", "a.mp4", "--batch-size", "-1"], "--batch-size"),
        ("demo", ["--input", "a.jpg", "--tile", "many"], "--tile"),
        ("explain", ["--input", "a.jpg", "--output", "x", "--instances", "0"], "--instances"),
        ("export_model", ["--output", "x.onnx", "--size", "0", "64"], "--size"),
        ("report", ["--from", "x", "--output", "y", "--images", "0"], "--images"),
        ("visualize_data", ["--config-file", BLENDMASK, "--output", "x", "--num", "-3"], "--num"),
    ],
)
def test_numbers_that_flags_cannot_have(tool, words, flag, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(f"pentamask.tools.{tool}").get_parser().parse_args(words)
    assert f"argument {flag}: " in capsys.readouterr().err
