"""The web demo in a real browser, with an untrained model."""

import json
import os
import socket

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from pentamask.engine.checks import BadInput
from pentamask.engine.load_config import find_config_file, load_config
from pentamask.tools import web_demo

CONFIGS = [f"shapes/{name}_R_50_thin.yaml" for name in ("CenterMask_Lite", "MaskRCNN", "PanopticSegFormer", "YOLACT")]


def _args(*words: str):
    return web_demo.get_parser().parse_args([*words])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def url(tiny, tmp_path):
    """The address of a running demo with a thin BlendMask, whose weights lie in tmp_path."""
    config, port = "shapes/BlendMask_R_50_thin.yaml", _free_port()
    weights = tmp_path / "thin.pth"
    torch.save(build_model(load_config(find_config_file(config), tiny)).state_dict(), weights)
    app = web_demo.main(
        _args("--config-file", config, "--weights", str(weights), "--port", str(port), "--opts", *tiny), wait=False
    )
    yield f"http://127.0.0.1:{port}"
    app.close()


def test_upload_masks_inside_and_results(url, page, shapes, tmp_path):
    page.goto(url)
    page.set_input_files("input[type=file]", os.path.join(shapes, "val", "000001.jpg"))
    page.get_by_label("number input for Lowest score").fill("0")
    page.wait_for_selector("img[alt='']")  # the picture has arrived
    page.click("button:has-text('Run')")
    page.wait_for_selector("img[alt=bases]")
    assert page.locator("img[alt=blend_1]").evaluate("x => x.naturalWidth") > 100
    with page.expect_download() as download:
        page.click("a[download='results.json']")
    download.value.save_as(tmp_path / "results.json")
    found = json.loads((tmp_path / "results.json").read_text())
    assert found and {"category_id", "score", "segmentation"} <= found[0].keys()
    page.get_by_label("Weights").fill("no.pth")
    page.keyboard.press("Enter")
    page.click("button:has-text('Run')")
    page.wait_for_selector("text='no.pth' does not exist")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    page.reload()
    page.set_input_files("input[type=file]", tmp_path / "broken.jpg")
    page.wait_for_selector("img[alt='']", state="attached")
    page.click("button:has-text('Run')")
    page.wait_for_selector("text=cannot identify image file")


@pytest.mark.parametrize("config", CONFIGS)
def test_other_models(config, shapes):
    picture = np.full((60, 80, 3), 90, np.uint8)
    models = web_demo._Models(["MODEL.DEVICE", "cpu"])
    drawn, inside, results = models.run(picture, config, "", 0.9)
    assert drawn.shape == (480, 640, 3) and inside.startswith("<img alt=") and os.path.isfile(results)


def test_lazy_configs(lazy):
    _, config, *overrides = lazy("YOLACT/yolact_resnet50.py")
    models, picture = web_demo._Models(overrides), np.full((60, 80, 3), 90, np.uint8)
    assert 'alt="prototypes"' in models.run(picture, config, "", 0.0)[1]
    with pytest.raises(BadInput, match=r"train.init_checkpoint: 'no.pth' does not exist"):
        models.run(picture, config, "no.pth", 0.0)


def test_strangers_choose_from_the_lists_only(monkeypatch):
    assert _args().host == "127.0.0.1" and web_demo._is_loopback("127.0.0.1")
    assert web_demo._is_loopback("::1") and web_demo._is_loopback("localhost")
    assert not web_demo._is_loopback("0.0.0.0") and not web_demo._is_loopback("example.org")
    for host, allowed in (("127.0.0.1", True), ("0.0.0.0", False)):
        app = web_demo.build_app(_args("--host", host))
        (weights,) = (x for x in app.blocks.values() if getattr(x, "label", "") == "Weights")
        assert weights.allow_custom_value == allowed
        run = next(iter(app.fns.values())).fn
        with pytest.raises(Exception, match="Upload a picture first" if allowed else "Choose from the lists"):
            run(None, "shapes/demo.yaml", "/etc/passwd", 0.5)
    with pytest.raises(Exception, match="Choose from the lists"):
        run(None, "/etc/passwd", "those that the config names", 0.5)


def test_mistakes(shapes):
    with pytest.raises(BadInput, match="no such file"):
        web_demo.main(_args("--config-file", "no.yaml"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(BadInput, match=f"--port {port}"):
            web_demo.main(_args("--port", port))
