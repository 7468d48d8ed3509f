"""Training, export and running, as on the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pentamask_runner import Runner
from PIL import Image
from thin_models import scenes

from pentamask.engine.load_config import find_config_file, load_config
from pentamask.engine.predictor import Predictor
from pentamask.tools import export_model, train_net

MODEL = "BlendMask_R_50_thin"
CONFIG = f"shapes/{MODEL}.yaml"


def export(*words: object) -> None:
    export_model.main(export_model.get_parser().parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: str) -> tuple[Path, list[str]]:
    """A BlendMask that `train_net` trained for a few iterations, and its options."""
    folder = tmp_path_factory.mktemp("trained")
    options = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "18", "MODEL.FCOS.NORM", "GN"]
    options += ["MODEL.FCOS.INFERENCE_TH_TEST", "0.02", "SEED", "1"]
    options += ["SOLVER.MAX_ITER", "8", "SOLVER.WARMUP_ITERS", "0", "SOLVER.IMS_PER_BATCH", "4"]
    options += ["SOLVER.BASE_LR", "0.02", "OUTPUT_DIR", str(folder)]
    train_net.main(train_net.default_argument_parser().parse_args(["--config-file", CONFIG, *options]))
    return folder / "model_final.pth", options


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    Image.fromarray(scenes(1)[0].permute(1, 2, 0).numpy()).save(path)
    return str(path)


def test_train_export_and_run(trained, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The file agrees with the model, says what it is, and finds in a picture what `Predictor` finds."""
    weights, options = trained
    path = tmp_path / "model.onnx"
    export("--config-file", CONFIG, "--output", path, "--verify", picture, *options, "MODEL.WEIGHTS", weights)
    table = capsys.readouterr().out
    assert "| picture | size | found: model / file |" in table and "| scene.png | 160 x 128 |" in table
    runner = Runner(str(path), threads=1)
    assert runner.metadata["thing_classes"][:2] == ["circle", "square"] and runner.metadata["image_format"] == "BGR"
    rule = {"rule": "shortest_edge", "size": 128, "max_size": 160, "interpolation": "pil"}
    assert runner.metadata["resize"] == rule and runner.metadata["config"] == CONFIG
    cfg = load_config(find_config_file(CONFIG), [*options, "MODEL.WEIGHTS", str(weights)])
    pixels = np.asarray(Image.open(picture))
    expected = Predictor(cfg)(np.ascontiguousarray(pixels[:, :, ::-1]))["instances"]
    found = runner(picture)
    assert len(found.scores) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-4)
    # Scores that differ by less than rounding may change places.
    boxes = expected.pred_boxes.tensor.numpy()
    partners = np.abs(boxes[:, None] - found.boxes[None]).max(axis=2).argmin(axis=1)
    np.testing.assert_allclose(found.boxes[partners], boxes, atol=0.02)
    assert (found.masks[partners] == expected.pred_masks.numpy()).mean() > 0.9999


def test_programs_for_pytorch(trained, tmp_path: Path) -> None:
    """In a process that does not import pentamask, from a portable file."""
    weights, options = trained
    path = tmp_path / "model.pt2"
    export("--config-file", CONFIG, "--output", path, "--portable", *options, "MODEL.WEIGHTS", weights)
    code = (
        "import sys, json, torch, torchvision; files = {'pentamask.json': ''}\n"
        f"program = torch.export.load({str(path)!r}, extra_files=files).module()\n"
        "shapes = [tuple(x.shape) for x in program(torch.zeros(3, 150, 170, dtype=torch.uint8))]\n"
        "assert not any('pentamask' in name for name in sys.modules)\n"
        "print(json.dumps([json.loads(files['pentamask.json'])['model'], [shape[1:] for shape in shapes]]))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["BlendMask", [[4], [], [], [28, 28]]]


def test_fixed_size_and_detections(trained, picture: str, tmp_path: Path) -> None:
    weights, options = trained
    path = tmp_path / "model.onnx"
    words = ["--size", 160, 192, "--detections", "fixed", "--masks", "image", *options, "MODEL.WEIGHTS", weights]
    export("--config-file", CONFIG, "--output", path, *words)
    graph = onnx.load(path).graph
    shapes = {x.name: [d.dim_value for d in x.type.tensor_type.shape.dim] for x in (*graph.input, *graph.output)}
    assert shapes["image"] == [3, 160, 192] and shapes["boxes"] == [100, 4] and shapes["masks"] == [100, 160, 192]
    found = Runner(str(path), threads=1)(picture)
    assert found.masks.shape[1:] == (128, 160) and 0 < len(found.scores) <= 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x.bin"], r"--output x.bin: end it in .onnx or .pt2, or give --format"),
        (
            ["--output", "x.pt2", "--half"],
            "--half, --opset, --batch, --verify, --sample-image and --run-eval are for",
        ),
        (["--output", "x.onnx", "--verify", "none.jpg"], "--verify none.jpg: there is no such file"),
        (["--output", "x.onnx", "--size", "10", "200"], "--size 10 200: this model takes pictures of 17 x 17 and more"),
        (["--output", "x.onnx", "MODEL.PANOPTIC_FPN.COMBINE.ENABLE", "True"], "Non-existent"),
    ],
)
def test_mistakes_are_told(words: list[str], message: str, trained, tmp_path: Path, monkeypatch) -> None:
    weights, options = trained
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, RuntimeError), match=message):
        export("--config-file", CONFIG, *words, *options, "MODEL.WEIGHTS", weights)
    assert not list(tmp_path.glob("x.*"))


def test_a_file_that_differs_is_refused(trained, picture: str, exported, tmp_path: Path, monkeypatch) -> None:
    """Here it has other weights."""
    weights, options = trained
    path = tmp_path / "model.onnx"
    monkeypatch.setattr(export_model, "export_onnx", lambda *_, **__: shutil.copy(exported(MODEL).path, path))
    with pytest.raises(ValueError, match="The file does not find what the model finds, see the table"):
        export("--config-file", CONFIG, "--output", path, "--verify", picture, *options, "MODEL.WEIGHTS", weights)


def test_an_old_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pentamask.export import onnx_file

    monkeypatch.setattr(onnx_file, "version", lambda name: "0.6.2")
    with pytest.raises(ImportError, match=r"onnxscript >= 0.7.1 \(found 0.6.2\): pip install 'pentamask\[onnx\]'"):
        onnx_file.check_packages("onnxscript")


def test_an_old_pytorch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    with pytest.raises(ImportError, match=r"Export needs PyTorch >= 2.10 \(found 2.9.1\+cu128\)"):
        export("--config-file", CONFIG, "--output", "x.onnx")


def test_run_onnx_is_the_runners_command_line(exported, picture: str, tmp_path: Path) -> None:
    arguments = [str(exported(MODEL).path), "--input", picture, "--output", str(tmp_path)]
    command = [sys.executable, "-W", "ignore", "-m", "pentamask.tools.run_onnx", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "scene.png").size == (160, 128)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("BlendMask_R_50_thin", [("bbox", "AP50"), ("segm", "AP50")]),
        ("PanopticSegFormer_R_50_thin", [("segm", "AP50"), ("panoptic_seg", "PQ")]),
    ],
)
def test_evaluation_of_a_file_gives_the_models_numbers(name: str, metrics, exported, shapes: str, tmp_path) -> None:
    from pentamask.engine.trainer import Trainer
    from pentamask.export.evaluate import evaluate_file

    made = exported(name)
    cfg = made.cfg.clone()
    cfg.OUTPUT_DIR = str(tmp_path)
    expected = Trainer.test(cfg, made.model)
    found = evaluate_file(made.runner, cfg.DATASETS.TEST[0], str(tmp_path))
    for task, metric in metrics:
        assert found[task][metric] == pytest.approx(expected[task][metric], abs=0.1)
