"""YAML files are data: nothing in them, or in their `_BASE_`, runs; the model zoo has its own names only."""

import logging
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

from pentamask import model_zoo
from pentamask.engine.checks import BadInput
from pentamask.engine.load_config import load_config
from pentamask.tools import convert_weights, demo, train_net


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What hostile files would make."""
    return tmp_path / "executed"


def test_yaml_runs_nothing_whoever_reads_it(tmp_path: Path, marker: Path) -> None:
    (tmp_path / "base.yaml").write_text(f"VERSION: !!python/object/apply:os.system ['touch {marker}']\n")
    (tmp_path / "tag.yaml").write_text(
        f"%TAG !p! tag:yaml.org,2002:python/\n---\n- !p!object/new:os.system [touch {marker}]\n"
    )
    (tmp_path / "mine.yaml").write_text("_BASE_: base.yaml\n")
    (tmp_path / "list.yaml").write_text("_BASE_: [tag.yaml, base.yaml]\n")
    (tmp_path / "x.jpg").touch()
    for name in ("base.yaml", "mine.yaml", "list.yaml"):
        file = str(tmp_path / name)
        for tool, parser, words in (
            (train_net.main, default_argument_parser(), ["--config-file", file]),
            (demo.main, demo.get_parser(), ["--config-file", file, "--input", str(tmp_path / "x.jpg")]),
            (convert_weights.main, convert_weights.get_parser(), ["a.pth", "b.pth", "--model", file]),
        ):
            with pytest.raises(BadInput, match=r"the tag .*os\.system is refused|keys and values of a config"):
                tool(parser.parse_args(words))
        with pytest.raises(RuntimeError, match="not available in Model Zoo"):
            model_zoo.get_config(file)
    assert not marker.exists()


def test_tuples_and_merge_keys_of_yaml_are_read_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "base.yaml").write_text("VERSION: 2\nSOLVER: &s\n  STEPS: !!python/tuple [3, 5]\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: base.yaml\nVERSION: 2\nSOLVER: {<<: {BASE_LR: 0.5}}\n")
    cfg = load_config(str(tmp_path / "mine.yaml"), [])
    assert cfg.SOLVER.STEPS == (3, 5) and cfg.SOLVER.BASE_LR == 0.5
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_BASE_: mine.yaml", "leads back to itself"),
        ("_BASE_: [mine.yaml, mine.yaml]", "leads back to itself"),
        ("_BASE_: /dev/zero", "/dev/zero is not a file"),
        ("_BASE_: 5", "AttributeError"),
        ("- 1", "does not hold the keys and values"),
        ("", "does not hold the keys and values"),
        ("MODEL: [", "while parsing a flow node"),
        ("a: &a [*a]", "aliases too often"),
        ("\n".join(["a: &a0 [1, 1]", *(f"b{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]), "too often"),
        ("a: " + "[" * 3000, "RecursionError"),
        ("MODEL: null", "TypeError"),
        ("# " + "x" * 2_000_000, "does not hold the keys and values"),
    ],
)
def test_yaml_that_is_no_config_ends_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(BadInput, match=message) as error:
        load_config(str(tmp_path / "mine.yaml"), [])
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../pyproject.toml", "FCOS/../FCOS/R_50_1x.yaml", "/etc/passwd", "no.yaml"])
def test_the_zoo_has_its_own_names_only(name: str) -> None:
    for function in (model_zoo.get_config_file, model_zoo.get_config, model_zoo.get):
        with pytest.raises(RuntimeError, match="not available in Model Zoo"):
            function(name)
    with pytest.raises(RuntimeError):
        model_zoo.get_config_file(model_zoo.get_config_file("FCOS/R_50_1x.yaml"))  # an absolute path
