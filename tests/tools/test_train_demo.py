"""`make demo` in small: train, evaluate, a picture of validation images, and the report."""

from PIL import Image

from pentamask.tools import train_demo


def test_trains_evaluates_and_draws(tiny, tmp_path, capsys):
    results = train_demo.main(tiny)
    assert {"bbox", "segm"} <= set(results)
    picture = Image.open(tmp_path / "out" / "side_by_side.png")
    assert picture.width > 6 * 320 and picture.height > 3 * 320  # two blocks of three panels, three rows
    report = tmp_path / "out" / "report" / "index.html"
    assert report.is_file() and (tmp_path / "out" / "inside" / "000_000001" / "bases.png").is_file()
    assert f"Look at {tmp_path / 'out' / 'side_by_side.png'} and {report}" in capsys.readouterr().out
