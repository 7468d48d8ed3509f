"""Look at configs: all keys and values, what a key does, keys that nothing reads, what differs between two.

python -m pentamask.tools.config show BlendMask/R_50_1x.yaml [KEY VALUE ...]
python -m pentamask.tools.config key SOLVER.EARLY_STOPPING
python -m pentamask.tools.config unread mine.yaml [KEY VALUE ...]
python -m pentamask.tools.config diff BlendMask/R_50_1x.yaml BlendMask/R_50_3x.yaml
"""

import argparse
import inspect
import re
import sys
from typing import Any

import detectron2.config.defaults
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from omegaconf import DictConfig, OmegaConf

import pentamask.backbones.config
import pentamask.data.config
import pentamask.solver
from pentamask.common import leaves
from pentamask.config import add_pentamask_config
from pentamask.data.mapper import MaskDatasetMapper
from pentamask.engine.checks import BadInput, did_you_mean
from pentamask.engine.command_line import add_config_options, add_debug_flag, reported_errors
from pentamask.engine.config_checks import building_errors, differences, unread_lazy_keys
from pentamask.engine.load_config import load_any_config
from pentamask.plugin import declared, registered_models

# Read by the tools and not by the model.
_OF_TOOLS = {"MODEL.WEIGHTS", "MODEL.WEIGHTS_PARTIAL", "MODEL.OPTIMIZE", "MODEL.COMPILE", "MODEL.META_ARCHITECTURE"}


def get_parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    parser = argparse.ArgumentParser(description="Look at configs.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("show", "all keys and values"), ("unread", "keys that are set and that nothing reads")):
        command = commands.add_parser(name, help=text)
        command.add_argument("config", help="file or name in the model zoo")
        add_config_options(command)
    commands.add_parser("key", help="what a key does, and its default").add_argument("key", help="as SOLVER.BASE_LR")
    diff = commands.add_parser("diff", help="what differs between two configs")
    diff.add_argument("config", nargs=2)
    return parser


def show(cfg: CfgNode | DictConfig) -> str:
    """The whole config as YAML."""
    return cfg.dump() if isinstance(cfg, CfgNode) else OmegaConf.to_yaml(cfg)


def describe_key(key: str) -> str:
    """The comment above a key of a CfgNode where it is defined, and its default.

    Raises:
        BadInput: there is no such key.
    """
    cfg = get_cfg()
    add_pentamask_config(cfg)
    known = leaves(cfg)
    under = {name: value for name, value in known.items() if name == key or name.startswith(f"{key}.")}
    if not under:
        raise BadInput(f"There is no key {key}.{did_you_mean(key, known)}")
    return "\n".join(f"{_comment(name)}{name}: {value!r}" for name, value in under.items())


def _comment(key: str) -> str:
    """The lines of comment above a key's definition, in our sources or Detectron2's; "" if there are none."""
    parts = key.split(".")
    ours = [pentamask.data.config, pentamask.backbones.config, pentamask.solver]
    ours += [inspect.getmodule(declared(model, "add_config")) for model in registered_models()]  # type: ignore[misc]
    detectron2_line = rf"^_C\.{re.escape(key)} = "
    for module, pattern in [(detectron2.config.defaults, detectron2_line), *((m, rf"\b{parts[-1]}=") for m in ours)]:
        lines = inspect.getsource(module).splitlines()
        for i, line in enumerate(lines):
            if re.search(pattern, line) and (module is detectron2.config.defaults or _is_within(parts, lines, i)):
                first = i
                while first and lines[first - 1].lstrip().startswith("#"):
                    first -= 1
                own = re.search(r"  (#.*)$", line)
                found = [*(text.strip() for text in lines[first:i]), *([own[1]] if own else [])]
                return "".join(f"{text}\n" for text in found)
    return ""


def _is_within(parts: list[str], lines: list[str], i: int) -> bool:
    """Whether the names above line `i` of a source, where one of its keys stands, are those of the key's node."""
    return len(parts) < 2 or any(re.search(rf"\b{parts[-2]}\b", line) for line in lines[max(0, i - 60) : i + 1])


def unread_keys(cfg: CfgNode) -> dict[str, Any]:
    """Keys under MODEL and INPUT, with values other than the defaults, that neither the model nor its data read.

    Raises:
        BadInput: the config cannot be built.
    """
    defaults = get_cfg()
    add_pentamask_config(defaults)
    wanted = {key: value for key, value in differences(cfg, defaults) if key.startswith(("MODEL.", "INPUT."))}
    read: set[str] = set()
    recording = _recording(cfg.clone(), "", read)
    recording.MODEL.DEVICE = "cpu"
    with building_errors(cfg):
        build_model(recording)
        for is_train in (True, False):
            MaskDatasetMapper(recording, is_train=is_train)
    return {key: value for key, value in wanted.items() if key not in read | _OF_TOOLS}


def _recording(node: CfgNode, prefix: str, read: set[str]) -> CfgNode:
    """`node`, whose keys and those below it, and their copies', are added to `read` when they are read."""

    class Recording(type(node)):  # type: ignore[misc]
        def __getitem__(self, key: str) -> Any:
            read.add(prefix + key)
            return super().__getitem__(key)

        def __getattr__(self, key: str) -> Any:
            read.add(prefix + key)
            return super().__getattr__(key)

    for key, value in node.items():
        if isinstance(value, CfgNode):
            _recording(value, f"{prefix}{key}.", read)
    object.__setattr__(node, "__class__", Recording)  # a node takes plain values only
    return node


def compare(first: CfgNode | DictConfig, second: CfgNode | DictConfig) -> list[str]:
    """A line for every key whose value differs or that only one has."""
    a, b = (leaves(cfg) for cfg in (first, second))
    missing = "(none)"
    return [
        f"{key}: {a.get(key, missing)!r} -> {b.get(key, missing)!r}"
        for key in sorted({*a, *b})
        if a.get(key, missing) != b.get(key, missing)
    ]


def main(args: argparse.Namespace) -> str:
    """What a command says.

    Raises:
        BadInput: a config or key does not exist or cannot be used.
    """
    if args.command == "key":
        return describe_key(args.key)
    if args.command == "diff":
        first, second = (load_any_config(name, []) for name in args.config)
        if isinstance(first, CfgNode) != isinstance(second, CfgNode):
            raise BadInput("A YAML config and a LazyConfig have no keys in common.")
        return "\n".join(compare(first, second)) or "No key differs."
    cfg = load_any_config(args.config, args.opts)
    if args.command == "show":
        return show(cfg)
    unread = unread_keys(cfg) if isinstance(cfg, CfgNode) else unread_lazy_keys(cfg)
    lines = [f"{key}: {value!r}" for key, value in unread.items()]
    return "\n".join(lines) or "Every key that is set is read."


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "config").parse_args()
    with reported_errors("config", debug=args.debug):
        sys.stdout.write(main(args).rstrip() + "\n")


if __name__ == "__main__":
    cli()
