"""Every kind of picture is read as what a person sees in it, or refused in one line that names it."""

import logging

import numpy as np
import pytest
from PIL import Image

from pentamask.data.pictures import convert_bgr, read_picture

# Left half dark red, right half light: RGB and, by ITU-R 601, its grey.
RGB = np.zeros((8, 10, 3), np.uint8)
RGB[:, :5] = (100, 0, 0)
RGB[:, 5:] = (200, 200, 200)
GREY = np.where(np.arange(10) < 5, 30, 200).astype(np.uint8)[None].repeat(8, 0)


def _save(path, mode: str) -> str:
    picture = Image.fromarray(RGB)
    (picture.quantize() if mode == "P" else picture.convert(mode)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("a.png", "RGB", RGB),
        ("a.png", "RGBA", RGB),
        ("a.png", "P", RGB),
        ("a.png", "L", GREY[..., None].repeat(3, 2)),
        ("a.png", "LA", GREY[..., None].repeat(3, 2)),
        ("a.tif", "CMYK", RGB),
        ("ä b [1] 图.png", "RGB", RGB),
    ],
)
def test_modes_and_names(tmp_path, name, mode, expected):
    path = _save(tmp_path / name, mode)
    np.testing.assert_array_equal(read_picture(path, "RGB"), expected)
    np.testing.assert_array_equal(read_picture(path, "BGR"), expected[..., ::-1])


def test_one_bit_is_black_and_white(tmp_path):
    picture = Image.fromarray(GREY > 100)
    assert picture.mode == "1"
    picture.save(tmp_path / "a.png")
    assert (read_picture(str(tmp_path / "a.png"), "RGB") == np.where(GREY > 100, 255, 0)[..., None]).all()


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("a.png", GREY.astype(np.uint16) * 257, GREY),  # 16 bits
        ("a.png", GREY.astype(np.uint16) * 16, GREY * (16 * 255 / 4095)),  # 12 bits
        ("a.tif", GREY.astype(np.uint16), GREY),  # 8 bits that lie in 16
        ("a.tif", GREY.astype(np.int32) * 1000, GREY * (255 / 200)),  # 32 bits: up to the largest
        ("a.tif", GREY / np.float32(255), GREY),
        ("a.tif", GREY.astype(np.float32), GREY),
        ("a.tif", GREY.astype(np.float32) - 30, GREY - 30.0),
    ],
)
def test_deep_pictures_are_scaled_with_one_warning(tmp_path, caplog, name, values, expected):
    Image.fromarray(values).save(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        seen = read_picture(str(tmp_path / name), "L")[..., 0]
    assert abs(seen - expected).max() <= 0.5


def test_grey_models_get_one_channel(tmp_path):
    assert read_picture(_save(tmp_path / "a.png", "RGB"), "L").shape == (8, 10, 1)
    np.testing.assert_array_equal(convert_bgr(RGB[..., ::-1], "L"), GREY[..., None])
    np.testing.assert_array_equal(convert_bgr(RGB[..., ::-1], "RGB"), RGB)


def test_of_an_animation_the_first_frame(tmp_path):
    first = Image.fromarray(RGB)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (10, 8), "white")])
    np.testing.assert_array_equal(read_picture(str(tmp_path / "a.gif"), "RGB"), RGB)


def test_broken_files_are_named(tmp_path, monkeypatch):
    good = (tmp_path / "good.jpg", tmp_path / "good.png")
    for path in good:
        _save(path, "RGB")
    broken = {
        "empty.jpg": b"",
        "text.jpg": b"no picture",
        "cut.jpg": good[0].read_bytes()[:-100],
        "cut.png": good[1].read_bytes()[:60],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=rf"Cannot read the image file .*{name}: .*Replace it or leave it out.$"):
            read_picture(str(tmp_path / name), "RGB")
    with pytest.raises(OSError, match="no such file|No such file"):
        read_picture(str(tmp_path / "missing.jpg"), "RGB")
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(OSError, match="nan.tif: it has pixels that are NaN"):
        read_picture(str(tmp_path / "nan.tif"), "RGB")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # twice as many are a bomb
    with pytest.raises(OSError, match=r"good.png: .*MAX_IMAGE_PIXELS = None"):
        read_picture(str(good[1]), "RGB")
