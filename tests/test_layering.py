"""The package's folders import downwards only; imports are read from the sources, those inside functions too."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "projects" / "pentamask"
PLUGINS = {path.parent.name for path in PACKAGE.glob("*/meta_arch.py")}
LAYERS = [
    {"tools"},
    {"report"},
    {"engine", "export", "model_zoo", "visualize"},
    PLUGINS,
    {"fcos", "backbones", "data", "evaluation", "checkpoint", "optimize"},
    {"ops"},
    {"plugin", "solver", "inputs", "explanation", "graph"},
    {"common"},
]
# Beside the layers: the package itself registers everything, config.py adds all keys.
ROOTS = {"__init__", "config"}
SIDEWAYS = (
    "pentamask.model_zoo",  # engine, export and visualize may ask for a config by name
    "pentamask.checkpoint.key_map",  # fcos holds a model of its own, OneStageDetector, whose released files it renames
)
FORBIDDEN = ("detectron2._C", "detectron2.model_zoo", "pentamask.tools")


def find_imports(path: Path) -> list[tuple[int, str]]:
    """All (line, dotted name) that a file imports, at its top or in a function; relative ones made absolute.

    What only type checkers import is left out.
    """
    package = ["pentamask", *path.relative_to(PACKAGE).parts[:-1]]
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def layer(part: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if part in names)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_allowed(importer: str, name: str) -> bool:
    """Whether a file in the folder `importer` may import `name`."""
    if name.startswith(FORBIDDEN) and not (name.startswith("pentamask.tools") and importer == "tools"):
        return False
    parts = name.split(".")
    if parts[0] != "pentamask" or importer == "__init__" or parts[1:2] == [importer]:
        return True
    imported = parts[1]
    if importer == "config":
        return parts[2:3] == ["config"] or imported in ("plugin", "solver")
    if imported in ROOTS or imported not in set().union(*LAYERS):  # pentamask.config, pentamask.__version__
        return layer(importer) < layer("blendmask")
    if importer == "ops":
        return False
    return layer(imported) > layer(importer) or (layer(imported) == layer(importer) and name.startswith(SIDEWAYS))


FILES = sorted(path for path in PACKAGE.rglob("*.py") if part_of(path) != "configs")


def test_every_folder_has_its_place() -> None:
    assert {part_of(path) for path in FILES} <= set().union(*LAYERS) | ROOTS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    wrong = [f"line {line}: {name}" for line, name in find_imports(path) if not is_allowed(part_of(path), name)]
    assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}"


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "ops"], ids=lambda path: path.name)
def test_ops_need_torch_only(path: Path) -> None:
    assert not [name for _, name in find_imports(path) if name.startswith(("detectron2", "fvcore"))]


@pytest.mark.parametrize(
    ("importer", "name", "allowed"),
    [
        ("blendmask", "pentamask.fcos.FCOS", True),
        ("blendmask", "pentamask.mask_rcnn.MaskRCNN", False),
        ("fcos", "pentamask.data.mapper", False),
        ("fcos", "pentamask.checkpoint.loader", False),
        ("fcos", "pentamask.ops.blend", True),
        ("ops", "pentamask.fcos.FCOS", False),
        ("engine", "pentamask.model_zoo", True),
        ("engine", "pentamask.visualize", False),
        ("engine", "pentamask.tools.demo", False),
        ("engine", "pentamask.report", False),
        ("report", "pentamask.visualize.predictions", True),
        ("report", "pentamask.tools.demo", False),
        ("tools", "pentamask.tools.train_net", True),
        ("model_zoo", "detectron2.model_zoo.get", False),
        ("data", "pentamask.config.add_pentamask_config", False),
        ("config", "pentamask.blendmask.BlendMask", False),
        ("config", "pentamask.blendmask.config.add_blendmask_config", True),
    ],
)
def test_rules(importer: str, name: str, allowed: bool) -> None:
    assert is_allowed(importer, name) == allowed


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "pentamask_runner").glob("*.py")), ids=lambda path: path.name)
def test_the_runner_needs_neither_pytorch_nor_pentamask(path: Path) -> None:
    modules = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]
    absolute = [node for node in modules if not (isinstance(node, ast.ImportFrom) and node.level)]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in absolute]
    others = {name.split(".")[0] for name in names if name} - set(sys.stdlib_module_names)
    assert others <= {"numpy", "PIL", "onnxruntime", "cv2"}
