"""The pages under docs/ and the READMEs: Python blocks run, commands name configs, keys and tools that exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from pentamask.engine.load_config import find_config_file, load_config

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A plugin that docs/extending.md shows is run by tests/test_plugin.py, as a package of its own.
RUN_ELSEWHERE = {"extending.md"}


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(page.read_text()) if language in languages]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in RUN_ELSEWHERE], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: str) -> None:
    """In order, in one namespace; what needs files of the reader is marked `py` instead."""
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": page.stem}
    for code in blocks(page, "python"):
        if "train_net.cli()" not in code:  # a script, shown whole
            exec(compile(code, str(page), "exec"), namespace)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in [*PAGES, ROOT / "README.md"]:
        for code in blocks(page, "", "console", "bash"):
            lines = code.replace("\\\n", " ").splitlines()
            found += [(page.name, line) for line in lines if "train_net.py" in line or "pentamask.tools." in line]
    return [(page, line) for page, line in found if "…" not in line]


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_can_be_given(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line.split(" #")[0])
    tool = next((word for word in words if word.startswith("pentamask.tools.")), None)
    assert tool is None or importlib.util.find_spec(tool), f"{page}: no module {tool}"
    if "--config-file" not in words:
        return
    config = find_config_file(words[words.index("--config-file") + 1])
    options = words[words.index("--config-file") + 2 :]
    first = next((i for i, word in enumerate(options) if re.fullmatch(r"[A-Z_]+(\.[A-Z_0-9]+)+", word)), None)
    if first is not None:
        load_config(config, options[first:])


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    assert all(str(page.relative_to(ROOT / "docs")) in menu for page in PAGES)
