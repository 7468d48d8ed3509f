"""The pages under docs/, the README and the plugins' READMEs, and their code blocks."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*DOCS, ROOT / "README.md", *sorted((ROOT / "projects" / "pentamask").glob("*/README.md"))]
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    page: str
    language: str
    code: str


def blocks(path: Path) -> list[Block]:
    """In their order."""
    return [Block(str(path.relative_to(ROOT)), *found) for found in _FENCE.findall(path.read_text())]
