"""Write the tables of released models.

    python -m pentamask.tools.list_models > MODEL_ZOO.md      # the whole page
    python -m pentamask.tools.list_models README.md ...       # the tables in these files, in place
    python -m pentamask.tools.list_models --filter lite       # names with that text, and what was published for them

A table in a file stands between the lines TABLE_BEGIN and TABLE_END and lists the configs that its rows name.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from pentamask.engine.checks import BadInput, did_you_mean
from pentamask.engine.command_line import add_debug_flag, reported_errors
from pentamask.model_zoo import list_models, list_releases
from pentamask.plugin import Release

TABLE_BEGIN, TABLE_END = "<!-- published numbers: written by `make model-zoo` -->", "<!-- end of table -->"

_INTRODUCTION = """\
# Model zoo

Every model that the papers' authors released, with the numbers published for it (batch 1, one GPU). `MODEL.WEIGHTS`
takes the file as it is: download it, or use `model_zoo.get(config, trained=True)` where an address is linked. Where no
file is named, the page lists the model under the config's name, but its link leads to a host that has closed, or to
another file. Sizes are given where the host states them; the pages state no checksums. This table is written by
`make model-zoo` from the `releases.py` of each paper in `projects/pentamask/`.
"""
_METRICS = {
    "box AP": "bbox/AP",
    "mask AP": "segm/AP",
    "PQ": "panoptic_seg/PQ",
    "PQ things": "panoptic_seg/PQ_th",
    "PQ stuff": "panoptic_seg/PQ_st",
}


def make_page() -> str:
    """MODEL_ZOO.md: one section for every folder of configs, and the configs without a released model."""
    releases = list_releases()
    families: dict[str, list[Release]] = {}
    for release in releases.values():
        families.setdefault(release.config.split("/")[0], []).append(release)
    sections = [_INTRODUCTION, *(_make_section(name, rows) for name, rows in families.items())]
    others = [name for name in list_models() if name not in releases and not name.startswith(("shapes/", "finetune/"))]
    return "\n".join([*sections, "## Configs without a released model\n", *(f"- `{name}`" for name in others), ""])


def _make_section(family: str, releases: Sequence[Release]) -> str:
    page, split, licence = releases[0].page, releases[0].split, releases[0].licence
    weights = licence.weights or "none of their own stated"
    heading = (
        f"## {family}\n\n"
        f"COCO {split}; files: [{page}](https://github.com/{page}). Licence of its code: {licence.code}; "
        f"of the weights: {weights}.\n"
    )
    return f"{heading}\n{make_table(releases)}\n"


def make_table(releases: Sequence[Release]) -> str:
    """The releases as a table, with those columns that any of them fills."""
    metrics = {title: key for title, key in _METRICS.items() if any(key in r.metrics for r in releases)}
    timed = any(release.seconds for release in releases)
    sized = any(release.megabytes for release in releases)
    titles = ["config", *metrics, *(["ms", "GPU"] if timed else []), "file", *(["MB"] if sized else [])]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for release in releases:
        numbers = [f"{release.metrics[key]:.1f}" if key in release.metrics else "" for key in metrics.values()]
        speed = [f"{1000 * release.seconds:.0f}" if release.seconds else "", release.device] if timed else []
        file = f"[{release.file}]({release.url})" if release.url else release.file or ""
        size = [f"{release.megabytes:g}" if release.megabytes else ""] if sized else []
        lines.append("| " + " | ".join([f"`{release.config}`", *numbers, *speed, file, *size]) + " |")
    return "\n".join([*lines, ""])


def fill_tables(text: str) -> str:
    """A page with the tables between TABLE_BEGIN and TABLE_END written anew, for the configs that their rows name."""
    releases = list_releases()

    def fill(match: re.Match) -> str:
        names = re.findall(r"^\| `([^`]+)`", match[1], re.MULTILINE)
        return f"{TABLE_BEGIN}\n{make_table([releases[name] for name in names])}{TABLE_END}"

    return re.sub(f"{re.escape(TABLE_BEGIN)}\n(.*?){re.escape(TABLE_END)}", fill, text, flags=re.DOTALL)


def find(pattern: str) -> str:
    """The names of configs that hold a text, each with what was published for it, as a table.

    Raises:
        BadInput: there is none.
    """
    names = [name for name in list_models() if pattern.lower() in name.lower()]
    if not names:
        raise BadInput(f"--filter {pattern}: no config has that in its name.{did_you_mean(pattern, list_models())}")
    releases = list_releases()
    rows = [
        [name, *(releases[name].metrics.get(m) if name in releases else None for m in _METRICS.values())]
        for name in names
    ]
    return tabulate(rows, ["config", *_METRICS], tablefmt="github", floatfmt=".1f")


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(description="List the configs and the released models.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="pages whose tables are written anew, in place")
    parser.add_argument("--filter", metavar="TEXT", help="only names with this text, and what was published for them")
    args = add_debug_flag(parser, "list_models").parse_args()
    with reported_errors("list_models", debug=args.debug):
        for path in map(Path, args.files):
            path.write_text(fill_tables(path.read_text()))
        if args.filter is not None:
            print(find(args.filter))
        elif not args.files:
            print(make_page(), end="")


if __name__ == "__main__":
    cli()
