"""Mutation testing: which small faults in the code do the tests notice?

    python dev/mutants.py [--count 120] [--start 0] [--seed 0] [--timeout 300] [FOLDER ...]

A mutant is one change to one expression or statement: a comparison, an operator, a constant, the order of two
arguments, a call that is left out. It is written into a copy of the sources and run against the tests that mirror its
file, then those of its folder, then its reference cases, until one fails. Folders take turns, and the mutants of a seed
have a fixed order, so that `--start` and `--count` can run them in pieces.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import detectron2.modeling  # noqa: F401, for the forks
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("blendmask", "centermask", "data", "engine", "fcos", "mask_rcnn", "panoptic_segformer", "yolact")
# Published numbers are data, which another test compares with their tables.
LEFT_OUT = ("__init__.py", "releases.py")
# Folders whose reference cases are called otherwise.
CASES = {"fcos": "blendmask"}

_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Mutant(NamedTuple):
    """A change to a file of the repository: the bytes from `start` to `end` become `text`."""

    file: Path
    line: int
    start: int
    end: int
    text: str

    def describe(self, source: bytes) -> str:
        """File, line, old and new text."""
        old = " ".join(source[self.start : self.end].decode().split())
        return f"{self.file}:{self.line}: {old} -> {self.text}"


def changed_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Copies of `node`, each with one fault at its top."""
    new = copy.deepcopy(node)
    match node:
        case ast.Compare(ops=[op, *_]) if type(op) in _COMPARISONS:
            new.ops[0] = _COMPARISONS[type(op)]()
            yield new
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in _OPERATORS:
            new.op = _OPERATORS[type(op)]()
            yield new
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield new.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value if value else 1.0)
        case ast.Call(func=ast.Name("max" | "min") | ast.Attribute(attr="maximum" | "minimum")):
            return  # the order of the arguments does not matter
        case ast.Call(args=[ast.expr() as first, ast.expr() as second, *_]) if ast.dump(first) != ast.dump(second):
            if not any(isinstance(arg, ast.Starred) for arg in (first, second)):
                new.args[:2] = second, first
                yield new
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield ast.Pass()


def visited_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but annotations, decorators, messages and strings."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, (ast.Raise, ast.JoinedStr)):
                yield from visited_nodes(child)


def mutants_of(root: Path, file: Path) -> Iterator[Mutant]:
    """All mutants of a file below `root`."""
    source = (root / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in visited_nodes(ast.parse(source)):
        for new in changed_nodes(node):
            text = ast.unparse(new)
            text = f"({text})" if isinstance(new, (ast.Compare, ast.BinOp, ast.BoolOp)) else text
            start = starts[node.lineno - 1] + node.col_offset
            yield Mutant(file, node.lineno, start, starts[node.end_lineno - 1] + node.end_col_offset, text)


def mutants_in_turn(root: Path, folders: Sequence[str], seed: int) -> list[Mutant]:
    """The mutants of all folders of the package, of each folder one in turn, in random order."""
    per_folder = []
    for folder in folders:
        files = sorted((root / "projects/pentamask" / folder).glob("*.py"))
        files = [file.relative_to(root) for file in files if file.name not in LEFT_OUT]
        mutants = [mutant for file in files for mutant in mutants_of(root, file)]
        random.Random(seed).shuffle(mutants)
        per_folder.append(mutants)
    return [mutant for turn in zip_longest(*per_folder) for mutant in turn if mutant is not None]


def test_runs(root: Path, file: Path) -> Iterator[list[str]]:
    """Arguments of pytest, the quickest first."""
    folder = file.parent.name
    mirror = Path("tests", folder, f"test_{file.name}")
    if (root / mirror).exists():
        yield [str(mirror)]
    yield [f"tests/{folder}", f"--deselect={mirror}"]
    yield ["tests/test_defaults.py", "tests/test_initialisation.py"]
    cases = root / "tests/reference/cases" / CASES.get(folder, folder)
    if cases.exists():
        yield ["tests/reference", f"--cases={cases}"]
    if folder == "engine":
        yield ["tests/tools/test_train_net.py"]


def run_pytest(root: Path, arguments: list[str]) -> None:
    """Body of a child process, which ends with pytest's exit code."""
    os.setpgrp()
    sys.dont_write_bytecode = True  # mutants of one second may have equal sizes
    os.chdir(root)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.path[:0] = [str(root / "projects"), str(root)]
    os.environ.update(PYTHONPATH=sys.path[0], PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    os._exit(pytest.main(["-qx", "-p", "no:cacheprovider", *arguments]))


def is_killed(root: Path, file: Path, timeout: float) -> bool:
    """Whether a test fails or does not end."""
    for arguments in test_runs(root, file):
        # A fork has PyTorch and Detectron2 at hand, whose import takes longer than most tests.
        process = get_context("fork").Process(target=run_pytest, args=(root, arguments))
        process.start()
        process.join(timeout)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            return True
        if process.exitcode not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return True
    return False


def try_mutant(root: Path, mutant: Mutant, timeout: float) -> bool:
    """Whether the mutant is killed, which is printed too."""
    path = root / mutant.file
    source = path.read_bytes()
    path.write_bytes(source[: mutant.start] + mutant.text.encode() + source[mutant.end :])
    killed = is_killed(root, mutant.file, timeout)
    path.write_bytes(source)
    print("killed  " if killed else "SURVIVED", mutant.describe(source), flush=True)
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", default=FOLDERS, help="of the package; default: %(default)s")
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run of pytest")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pentamask_mutants_") as folder:
        root = Path(folder)
        for name in ("projects", "configs", "tests"):
            shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        mutants = mutants_in_turn(root, args.folders, args.seed)
        chosen = mutants[args.start : args.start + args.count]
        killed = sum(try_mutant(root, mutant, args.timeout) for mutant in chosen)
    print(f"{killed} of {len(chosen)} mutants killed ({killed / max(len(chosen), 1):.0%}); there are {len(mutants)}.")


if __name__ == "__main__":
    main()
