"""The runner needs the file only, and gives what the model gives."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from pentamask_runner import Runner
from pentamask_runner.command_line import cli, get_parser, main
from pentamask_runner.metadata import read_metadata
from pentamask_runner.runner import open_session, resize_picture, target_size
from PIL import Image
from thin_models import THIN_MODELS, build_variant, scenes

from pentamask.data.augmentation import OpenCVResizeShortestEdge, ResizeShortestEdge
from pentamask.export import Exportable, export_onnx
from pentamask.export.half import to_half
from pentamask.export.verify import compare, run_eagerly

PROJECTS = Path(__file__).parents[2] / "projects"


@pytest.mark.parametrize("name", [*THIN_MODELS, "panoptic BlendMask", "panoptic CenterMask with VoVNet"])
def test_equals_the_model(name: str, exported) -> None:
    made = exported(name)
    for scene in scenes(2, seed=8):
        found = made.runner(scene.permute(1, 2, 0).numpy())
        image = scene if made.cfg.INPUT.FORMAT == "RGB" else scene.flip(0)
        with torch.no_grad():
            (output,) = made.model([{"image": image}])
        expected = output["instances"]
        assert len(found.scores) == len(expected) > 0
        np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-3)
        # Scores that differ by less than rounding may change places.
        other_class = expected.pred_classes.numpy()[:, None] != found.classes[None]
        distances = np.abs(expected.pred_boxes.tensor.numpy()[:, None] - found.boxes[None]).max(axis=2)
        partners = np.where(other_class, np.inf, distances).argmin(axis=1)
        assert (distances[np.arange(len(expected)), partners] < 0.1).mean() > 0.95
        inside, theirs = found.masks[partners], expected.pred_masks.numpy()
        ious = (inside & theirs).sum(axis=(1, 2)) / np.maximum((inside | theirs).sum(axis=(1, 2)), 1)
        assert np.median(ious[theirs.any(axis=(1, 2))]) > 0.98  # random masks are near 0.5
        if "panoptic_seg" in output and "VoVNet" not in name:  # there scores tie, and segments change places
            assert (found.panoptic[0] == output["panoptic_seg"][0].numpy()).mean() > 0.98


def test_runs_where_torch_is_missing(exported, tmp_path: Path) -> None:
    """In a process that cannot import it, through the command line, with all of its outputs."""
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    for i, scene in enumerate(scenes(2)):
        Image.fromarray(scene.permute(1, 2, 0).numpy()).save(tmp_path / f"scene{i}.png")
    arguments = [str(exported("PanopticSegFormer_R_50_thin").path), "--input", str(tmp_path / "scene*.png")]
    arguments += ["--output", str(tmp_path / "drawn"), "--save-json", str(tmp_path / "found.json"), "--threads", "1"]
    arguments += ["--save-panoptic", str(tmp_path / "segments"), "--confidence-threshold", "0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "pentamask_runner", *arguments],
        env={"PYTHONPATH": f"{tmp_path}:{PROJECTS}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "drawn" / "scene0.png").size == (160, 128)
    entries = json.loads((tmp_path / "found.json").read_text())
    assert {entry["image_id"] for entry in entries} == {0, 1} and all(entry["score"] >= 0.1 for entry in entries)
    assert {path.name for path in (tmp_path / "segments").iterdir()} >= {"scene0.png", "scene1.json"}


def test_a_threshold_leaves_out_weak_instances(exported) -> None:
    made = exported("BlendMask_R_50_thin")
    picture = scenes(1)[0].permute(1, 2, 0).numpy()
    everything = made.runner(picture)
    middle = float(np.median(everything.scores))
    some = Runner(str(made.path), threads=1, confidence_threshold=middle)(picture)
    assert len(some.scores) == (everything.scores >= middle).sum() == len(some.masks)


def test_command_line_refuses_before_work_is_lost(exported, tmp_path: Path, monkeypatch) -> None:
    def run(*words: str) -> None:
        main(get_parser().parse_args(list(words)))

    for folder, ending in (("a", "png"), ("b", "png"), ("b", "jpg")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(tmp_path / folder / f"x.{ending}")
    model, picture, broken = str(exported("MaskRCNN_R_50_thin").path), str(tmp_path / "a"), tmp_path / "broken.onnx"
    run(model, "--input", picture, "--save-json", str(tmp_path / "new" / "found.json"), "--threads", "1")
    assert (tmp_path / "new" / "found.json").is_file()
    with pytest.raises(ValueError, match="files of the same name"):
        run(model, "--input", str(tmp_path / "b"), "--output", str(tmp_path / "drawn"))
    with pytest.raises(ValueError, match="x.png is an input, and would be overwritten"):
        run(model, "--input", picture, "--output", picture)
    with pytest.raises(ValueError, match="--save-json and --save-panoptic are for --input"):
        run(model, "--video-input", "x.mp4", "--output", "y.mp4", "--save-json", "z.json")
    broken.write_text("no model")
    with pytest.raises(ValueError, match=r"Cannot load .*broken\.onnx: .*Protobuf"):
        run(str(broken), "--input", picture)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        run(model, "--input", picture)


def test_a_missing_provider_is_told_in_one_line(exported, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    words = [str(exported("MaskRCNN_R_50_thin").path), "--input", str(PROJECTS.parent / "*.md"), "--provider", "cuda"]
    monkeypatch.setattr(sys, "argv", ["pentamask_runner", *words])
    with pytest.raises(SystemExit, match="1"):
        cli()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("run_onnx: error: This onnxruntime has the providers cpu") and ", not cuda: install" in line


def test_videos(exported, tmp_path: Path) -> None:
    code, frames = cv2.VideoWriter.fourcc(*"mp4v"), [x[:, :96, :96].permute(1, 2, 0).numpy() for x in scenes(3)]
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), code, 10, (96, 96))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    model, drawn = str(exported("MaskRCNN_R_50_thin").path), tmp_path / "new" / "b.mp4"
    main(get_parser().parse_args([model, "--video-input", str(tmp_path / "a.mp4"), "--output", str(drawn)]))
    video = cv2.VideoCapture(str(drawn))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (3, 10)
    success, first = video.read()
    assert success and np.abs(first[:, :, ::-1].astype(int) - frames[0]).mean() > 2  # something is drawn
    (tmp_path / "c.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"Cannot open the video .*c\.mp4"):
        main(get_parser().parse_args([model, "--video-input", str(tmp_path / "c.mp4"), "--output", str(drawn)]))
    with pytest.raises(ValueError, match="--video-input needs --output"):
        main(get_parser().parse_args([model, "--video-input", str(tmp_path / "a.mp4")]))


def test_half_precision(exported, tmp_path: Path) -> None:
    """A file of half the size finds nearly the same."""
    made, path = exported("BlendMask_R_50_thin"), tmp_path / "half.onnx"
    graph = onnx.load(made.path)
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    graph = to_half(graph)
    onnx.helper.set_model_props(graph, properties)
    onnx.save(graph, path)
    assert path.stat().st_size < 0.6 * made.path.stat().st_size
    picture = scenes(1)[0].permute(1, 2, 0).numpy()
    runner = Runner(str(path), threads=1)
    image, _ = runner.preprocess(picture)
    agreement = compare(run_eagerly(made.module, image), runner.run(image))
    assert agreement.found == agreement.expected > agreement.unmatched / 0.4 and agreement.scores < 0.02, agreement
    assert len(runner(picture).scores) > 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resize", '{"rule": "shortest_edge", "size": -5, "max_size": 160}'),
        ("resize", '{"rule": ["none"]}'),
        ("min_size", '"129"'),
        ("size", "[0, 160]"),
        ("thing_classes", "{broken"),
    ],
)
def test_damaged_metadata_are_named(name: str, value: str) -> None:
    properties = {
        **{"pentamask_version": '"1"', "image_format": '"RGB"', "pixel_mean": "[0, 0, 0]", "min_size": "129"},
        **{"resize": '{"rule": "none"}', "stretches": "false", "thing_classes": "[]", "stuff_classes": "[]"},
        **{"thing_dataset_ids": "[]", "author": "somebody's own words"},
    }
    assert read_metadata(properties, "a.onnx")["min_size"] == 129
    with pytest.raises(
        ValueError, match=rf"a\.onnx: {name} of its metadata is .*{re.escape(value[-8:])}, which .*again"
    ):
        read_metadata({**properties, name: value}, "a.onnx")


def test_errors_name_the_remedy(exported, tmp_path: Path) -> None:
    made = exported("MaskRCNN_R_50_thin")
    graph = onnx.load(made.path)
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="no metadata of pentamask: export it with `python -m pentamask.tools.export"):
        Runner(str(tmp_path / "foreign.onnx"))
    with pytest.raises(ValueError, match="300 x 20 pixels becomes 160 x 11, but the model takes 65 and more: enlarge"):
        made.runner(np.zeros((20, 300, 3), np.uint8))
    with pytest.raises(ValueError, match=r"onnxruntime failed on an input of shape \(3, 5\): "):
        made.runner.run(np.zeros((3, 5), np.uint8))
    with pytest.raises(ValueError, match=r"Expected a picture \(H, W, 3\) of uint8, got float64 of shape \(5, 5\)"):
        made.runner(np.zeros((5, 5)))
    with pytest.raises(ValueError, match="not tensorrt: install onnxruntime-gpu"):
        open_session(str(made.path), "tensorrt")


@pytest.mark.parametrize("size", [(120, 160), (97, 33), (500, 20), (128, 128)])
@pytest.mark.parametrize(
    ("augmentation", "interpolation"), [(ResizeShortestEdge, "pil"), (OpenCVResizeShortestEdge, "opencv")]
)
def test_pictures_are_resized_as_by_the_loader(size, augmentation, interpolation: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = augmentation(80, 133, "choice").get_transform(picture).apply_image(picture)
    shape = target_size({"rule": "shortest_edge", "size": 80, "max_size": 133}, *size)
    np.testing.assert_array_equal(resize_picture(picture, *shape, interpolation), expected)


def test_batches(tmp_path: Path) -> None:
    """Three pictures, two at a time, each as alone."""
    cfg, model = build_variant("BlendMask_R_50_thin")
    path = str(tmp_path / "batch.onnx")
    export_onnx(model, cfg, path, batch=2, detections="fixed")
    runner, pictures = Runner(path, threads=1), [x[:, :128, :128].permute(1, 2, 0).numpy() for x in scenes(3)]
    module = Exportable(model)
    for picture, found in zip(pictures, runner.batch(pictures), strict=True):
        image, _ = runner.preprocess(picture)
        agreement = compare(run_eagerly(module, image), runner.run(image))
        assert agreement.unmatched == 0 and agreement.boxes < 0.02, agreement
        alone = runner(picture)
        assert len(alone.scores) == len(found.scores) > 0
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
    with pytest.raises(ValueError, match="must have one size"):
        runner.batch([pictures[0], pictures[1][:100, :, :]])
