"""demo.py on images and a video, with an untrained model whose every score passes."""

import glob
import json
import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import Metadata, MetadataCatalog
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model
from PIL import Image

from pentamask.checkpoint.loader import CheckpointError
from pentamask.data.mapper import MaskDatasetMapper
from pentamask.engine.checks import BadInput
from pentamask.engine.load_config import find_config_file, load_config, load_lazy_config
from pentamask.engine.predictor import Predictor
from pentamask.tools import demo, train_net
from pentamask.tools.save_predictions import Saver

CONFIG = "shapes/BlendMask_R_50_thin.yaml"


def _run(*words: str) -> None:
    demo.main(demo.get_parser().parse_args(["--config-file", CONFIG, "--confidence-threshold", "0", *words]))


@pytest.fixture
def images(shapes) -> str:
    return os.path.join(shapes, "val")


@pytest.fixture
def clip(images, tmp_path) -> str:
    """A video of three frames of 64 x 96, ten a second."""
    path = str(tmp_path / "clip.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (96, 64))
    for file in sorted(glob.glob(images + "/*.jpg"))[:3]:
        writer.write(cv2.resize(cv2.imread(file), (96, 64)))
    writer.release()
    return path


def test_patterns_and_files_into_a_new_folder(images, tiny, tmp_path, monkeypatch):
    names = ["000001.jpg", "000002.jpg", "000003.jpg"]
    inputs = [os.path.join(images, "00000[12].jpg"), os.path.join(images, "000003.jpg")]
    messages = []
    monkeypatch.setattr(demo.logger, "info", lambda text, *values: messages.append(text % values))
    _run("--input", *inputs, "--output", str(tmp_path / "new"), "--opts", *tiny)
    assert sorted(os.listdir(tmp_path / "new")) == names
    for name in names:
        before, after = (np.array(Image.open(os.path.join(f, name))) for f in (images, tmp_path / "new"))
        assert before.shape == after.shape and (before != after).any()
    assert len(messages) == 3
    for path, message in zip(sorted(glob.glob(images + "/00000[123].jpg")), messages):
        assert re.fullmatch(rf"{path}: detected [1-9]\d* instances in .*s", message), message


def test_weights_that_do_not_fill_the_model_are_refused(images, tiny, tmp_path):
    weights = build_model(load_config(find_config_file(CONFIG), tiny)).state_dict()
    torch.save({k: v for k, v in weights.items() if k.startswith("backbone.bottom_up.")}, tmp_path / "body.pth")
    words = ["--input", os.path.join(images, "000001.jpg"), "--output", str(tmp_path / "out.jpg"), "--opts", *tiny]
    with pytest.raises(CheckpointError, match=r"body\.pth: .*evaluation mode needs every entry"):
        _run(*words, "MODEL.WEIGHTS", str(tmp_path / "body.pth"))
    _run(*words, "MODEL.WEIGHTS", str(tmp_path / "body.pth"), "MODEL.WEIGHTS_PARTIAL", "True")


def test_a_folder_with_brackets_in_its_name(images, tmp_path):
    folder = tmp_path / "dir [1]"
    folder.mkdir()
    (folder / "a.jpg").touch()
    assert demo.find_images([f"{folder}/*.jpg"]) == [str(folder / "a.jpg")]


def test_grey_models_train_and_are_shown(images, tiny, tmp_path):
    grey = ["INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", "[116.0]", "MODEL.PIXEL_STD", "[57.0]"]
    words = ["--config-file", "shapes/MaskRCNN_R_50_thin.yaml", *tiny, *grey]
    assert train_net.main(default_argument_parser().parse_args(["--num-gpus", "0", *words])).keys() == {"bbox", "segm"}
    _run("--input", os.path.join(images, "000001.jpg"), "--output", str(tmp_path / "a.png"), "--opts", *tiny, *grey)
    assert (tmp_path / "a.png").exists()


def test_one_image_into_a_file_and_unreadable_ones_named(images, tiny, tmp_path):
    _run("--input", os.path.join(images, "000001.jpg"), "--output", str(tmp_path / "a.png"), "--opts", *tiny)
    assert Image.open(tmp_path / "a.png").size == Image.open(os.path.join(images, "000001.jpg")).size
    (tmp_path / "broken.jpg").write_text("no image")
    inputs = [str(tmp_path / "broken.jpg"), os.path.join(images, "000002.jpg")]
    with pytest.raises(BadInput, match=r"1 of 2 images failed: .*broken.jpg"):
        _run("--input", *inputs, "--output", str(tmp_path / "out2"), "--opts", *tiny)
    assert os.listdir(tmp_path / "out2") == ["000002.jpg"]  # the others are done all the same


def test_inputs_and_outputs_that_cannot_be_used(images, tiny, tmp_path):
    (tmp_path / "file.txt").write_text("")
    one, two = (os.path.join(images, name) for name in ("000001.jpg", "000002.jpg"))
    for words, message in (
        (["--input", "no/such*.jpg"], r"--input no/such\*.jpg: there is no such file"),
        (["--input", one, two, "--output", str(tmp_path / "file.txt")], r"is a file, but 2 images need a folder"),
        (["--input", one, one, "--output", str(tmp_path / "d")], r"same name in several folders"),
        (["--input", one, "--output", str(tmp_path / "a.xyz")], r"Cannot write .*a.xyz"),
        (["--webcam", "--output", "x.mp4"], r"--output cannot be combined with --webcam"),
        (["--video-input", str(tmp_path / "file.txt")], r"Cannot open the video .*file.txt"),
    ):
        with pytest.raises(BadInput, match=message):
            _run(*words, "--opts", *tiny)
    with pytest.raises(BadInput, match=r"MODEL.WEIGHTS: 'no.pth' does not exist"):
        _run("--input", one, "--opts", *tiny, "MODEL.WEIGHTS", "no.pth")


def test_inputs_are_never_overwritten(images, tmp_path):
    photo = tmp_path / "photo.jpg"
    shutil.copy(os.path.join(images, "000001.jpg"), photo)
    before = photo.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    for output in (photo, tmp_path, tmp_path / "link", tmp_path / "link" / "photo.jpg"):
        with pytest.raises(BadInput, match=r"would overwrite the input .*photo.jpg"):
            _run("--input", str(photo), "--output", str(output))
    assert photo.read_bytes() == before


def test_a_folder_as_input(images, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BadInput, match=r"--input .*: this folder has no images"):
        demo.find_images([str(tmp_path)])
    assert demo.find_images([images]) == sorted(glob.glob(f"{images}/*.jpg"))


def test_what_cannot_be_opened_is_said_before_the_model_is_built(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "build_predictor", lambda args: pytest.fail("built"))
    for words, message in (
        (["--video-input", str(tmp_path / "no.mp4")], "Cannot open the video .*no.mp4"),
        (["--ground-truth", "shapes_vall", "--output", "a.png"], "Did you mean shapes_val"),
        (["--input", __file__, "--save-masks", __file__], "--save-masks .* cannot be made"),
    ):
        with pytest.raises(BadInput, match=message):
            _run(*words)
    for threshold in ("nan", "1.5", "-0.1", "high"):
        with pytest.raises(SystemExit):
            demo.get_parser().parse_args(["--input", "a.jpg", "--confidence-threshold", threshold])
        assert "--confidence-threshold" in capsys.readouterr().err


def test_results_and_masks_are_saved(images, tiny, tmp_path):
    source = os.path.join(images, "000001.jpg")
    results, masks = tmp_path / "new" / "found.json", tmp_path / "masks"
    words = ["--input", source, "--output", str(tmp_path / "a" / "b.png"), "--save-json", str(results)]
    _run(*words, "--save-masks", str(masks), "--opts", *tiny)
    found = json.loads(results.read_text())
    assert found and {(r["image_id"], r["file_name"]) for r in found} == {(0, source)}
    ids = set(MetadataCatalog.get("shapes_val").thing_dataset_id_to_contiguous_id)
    assert {r["category_id"] for r in found} <= ids
    for i, result in enumerate(found):
        mask = np.array(Image.open(masks / f"000001_{i}.png"))
        assert (mask == 255 * mask_util.decode(result["segmentation"])).all()
    assert len(os.listdir(masks)) == len(found) and (tmp_path / "a" / "b.png").exists()


def test_panoptic_masks(tmp_path):
    id_map = torch.tensor([[0, 1], [300, 300]], dtype=torch.int32)
    segments = [{"id": 1, "category_id": 0, "isthing": True}, {"id": 300, "category_id": 2, "isthing": False}]
    Saver(mask_folder=str(tmp_path)).add("x/a.b.jpg", {"panoptic_seg": (id_map, segments)}, Metadata())
    assert np.array(Image.open(tmp_path / "a.b.png")).tolist() == id_map.tolist()
    assert json.loads((tmp_path / "a.b.json").read_text()) == segments


def test_ground_truth_beside_predictions(shapes, tiny, tmp_path):
    _run("--ground-truth", "shapes_val", "--output", str(tmp_path / "new" / "truth.png"), "--opts", *tiny)
    width, height = Image.open(tmp_path / "new" / "truth.png").size
    assert (width, height) == (3 * 326 + 6, 28 + 6 * 326)  # 6 images of 3 panels


@pytest.mark.parametrize(
    "name",
    [
        "BlendMask/R_50_1x.py",
        "CenterMask/centermask_R_50_FPN_ms_3x.py",
        "MaskRCNN/R_50_FPN_1x.py",
        "PanopticSegFormer/R_50_2x.py",
        "YOLACT/yolact_resnet50.py",
    ],
)
def test_lazy_configs(images, clip, lazy, tmp_path, name):
    """Of all five models: a picture, a picture in tiles, a video."""
    source, words = os.path.join(images, "000001.jpg"), lazy(name)

    def run(*flags: str, override: str = "train.seed=1") -> None:
        common = ["--confidence-threshold", "0", *flags, "--opts", *words[2:], override]
        demo.main(demo.get_parser().parse_args([*words[:2], *common]))

    for target, flags in ((tmp_path / "a.png", ()), (tmp_path / "tiles.png", ("--tile", "80"))):
        run("--input", source, "--output", str(target), *flags)
        before, after = (np.array(Image.open(path)) for path in (source, target))
        assert before.shape == after.shape and (before != after).any()
    run("--video-input", clip, "--output", str(tmp_path / "new"), "--save-json", str(tmp_path / "tracks.json"))
    assert cv2.VideoCapture(str(tmp_path / "new" / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert {result["image_id"] for result in json.loads((tmp_path / "tracks.json").read_text())} == {0, 1, 2}
    with pytest.raises(BadInput, match=r"train.init_checkpoint: 'no.pth' does not exist"):
        run("--input", source, "--output", str(tmp_path / "b.png"), override="train.init_checkpoint=no.pth")


def test_tiles(images, tiny, tmp_path):
    target = tmp_path / "tiled.png"
    tiles = ["--tile", "64", "--overlap", "0.3", "--save-json", str(tmp_path / "found.json")]
    _run("--input", os.path.join(images, "000001.jpg"), "--output", str(target), *tiles, "--opts", *tiny)
    assert target.is_file() and json.loads((tmp_path / "found.json").read_text())
    with pytest.raises(BadInput, match="--overlap is that of tiles"):
        _run("--input", images, "--output", str(tmp_path / "x"), "--overlap", "0.5", "--opts", *tiny)
    with pytest.raises(BadInput, match="Tiles of 64 pixels with an overlap of 1.0"):
        _run("--input", images, "--output", str(tmp_path / "x"), "--tile", "64", "--overlap", "1", "--opts", *tiny)


def test_video_keeps_its_size_and_number_of_frames(clip, tiny, tmp_path):
    source, target = clip, str(tmp_path / "out.mp4")
    with pytest.raises(BadInput, match=r"Cannot write the video .*out.png: give a name that ends in one of .mp4"):
        _run("--video-input", source, "--output", str(tmp_path / "out.png"), "--opts", *tiny)
    _run("--video-input", source, "--output", target, "--opts", *tiny)
    video = cv2.VideoCapture(target)
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (96, 64)
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), round(video.get(cv2.CAP_PROP_FPS))) == (3, 10)
    with pytest.raises(BadInput, match=r"--batch-size 2: with --tile give 1"):
        _run("--video-input", source, "--batch-size", "2", "--tile", "64", "--opts", *tiny)
    file = tmp_path / "tracks.json"
    batches = ["--batch-size", "2", "--save-json", str(file)]
    _run("--video-input", source, "--output", str(tmp_path / "again.mp4"), *batches, "--opts", *tiny)
    results = json.loads(file.read_text())
    assert {result["image_id"] for result in results} == {0, 1, 2} and all("track_id" in result for result in results)
    with pytest.raises(BadInput, match=r"out.mp4 exists already"):
        _run("--video-input", source, "--output", target, "--opts", *tiny)


def test_the_threshold_is_on_the_final_score_of_every_model(images, tiny):
    image = cv2.imread(os.path.join(images, "000001.jpg"))
    cfg = load_config("configs/shapes/BlendMask_R_50_thin.yaml", tiny)
    torch.manual_seed(0)
    scores = Predictor(cfg)(image)["instances"].scores
    middle = float(scores.median())
    torch.manual_seed(0)
    kept = Predictor(cfg, confidence_threshold=middle)(image)["instances"].scores
    torch.testing.assert_close(kept, scores[scores >= middle])


def test_the_model_gets_what_the_test_loader_gives(images, shapes, lazy):
    options = ["INPUT.FORMAT", "RGB", "INPUT.RESIZER", "opencv", "INPUT.MIN_SIZE_TEST", "90", "MODEL.DEVICE", "cpu"]
    cfg = load_config("configs/shapes/PanopticSegFormer_R_50_thin.yaml", options)
    words = lazy("PanopticSegFormer/R_50_2x.py")
    lazy_cfg = load_lazy_config(find_config_file(words[1]), words[2:])
    path = os.path.join(images, "000001.jpg")
    for config, mapper in (
        (cfg, MaskDatasetMapper(cfg, is_train=False)),
        (lazy_cfg, instantiate(lazy_cfg.dataloader.test.mapper)),
    ):
        predictor = Predictor(config)
        predictor.model = lambda inputs: inputs
        expected, actual = mapper({"file_name": path}), predictor(cv2.imread(path))
        torch.testing.assert_close(actual["image"], expected["image"], rtol=0, atol=0)
        assert (actual["height"], actual["width"]) == (expected["height"], expected["width"])


def test_the_threshold_voids_panoptic_things():
    predictor = Predictor.__new__(Predictor)
    predictor.confidence_threshold = 0.5
    segments = [
        {"id": 1, "isthing": True, "category_id": 0, "score": 0.4},
        {"id": 2, "isthing": True, "category_id": 0, "score": 0.6},
        {"id": 3, "isthing": False, "category_id": 1},
    ]
    id_map, kept = predictor._confident_segments(torch.tensor([[1, 2], [3, 0]]), segments)
    assert id_map.tolist() == [[0, 2], [3, 0]] and [s["id"] for s in kept] == [2, 3]


def test_as_a_user_starts_it_bad_input_ends_in_one_line():
    command = [sys.executable, "demo.py", "--config-file", "no.yaml", "--input", "a.jpg"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("demo: error: no.yaml: no such file")
