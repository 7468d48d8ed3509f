"""Write an authors' checkpoint under our names: a Detectron2-style `.pth`, or `.safetensors`.

python -m pentamask.tools.convert_weights R_50_3x.pth clean.safetensors --model FCOS/R_50_1x --verify
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from pentamask.checkpoint.files import read_checkpoint
from pentamask.checkpoint.key_map import KeyRules, known_rules, recognise, sample
from pentamask.checkpoint.loader import PentamaskCheckpointer, load_completely
from pentamask.engine.checks import BadInput
from pentamask.engine.command_line import add_config_options, add_debug_flag, reported_errors
from pentamask.engine.load_config import find_config_file, load_config
from pentamask.plugin import declared, find_model_class


def get_parser() -> argparse.ArgumentParser:
    """The command line's."""
    parser = argparse.ArgumentParser(description="Write an authors' checkpoint under pentamask's names.")
    parser.add_argument("source", metavar="IN", help="the authors' file: .pth, .pkl or .safetensors, or its address")
    parser.add_argument("target", metavar="OUT", help="new file, .pth or .safetensors")
    parser.add_argument("--model", required=True, help="config in the model zoo, as FCOS/R_50_1x, or a YAML file")
    parser.add_argument("--verify", action="store_true", help="load both files and compare the models' outputs")
    add_config_options(parser, "--opts")
    return parser


def main(args: argparse.Namespace) -> None:
    """Convert, and with --verify compare.

    Raises:
        BadInput: a file cannot be read or written, belongs to another model, or the comparison finds a difference.
    """
    cfg = _load_config(args.model, args.opts)
    source = _find_source(args.source)
    _check_target(source, args.target)
    model = build_model(cfg)
    with _file_errors(args.source):
        keys = [key.removeprefix("module.") for key in read_checkpoint(source)["model"]]
    rules = _check_family(keys, model, args)
    with _file_errors(f"This file of {rules.model} does not fit --model {args.model}"):
        load_completely(model, source)
    with _file_errors(args.target):
        write_weights(model.state_dict(), args.target)
    print(f"{args.source}: {_report(keys, rules, model)}\n{args.target}: {len(model.state_dict())} entries")
    if args.verify:
        print(f"verified: {verify(cfg, source, args.target)}")


def _load_config(name: str, overrides: list[str]) -> CfgNode:
    file = find_config_file(name if name.endswith((".yaml", ".yml", ".py")) else f"{name}.yaml")
    if file.endswith(".py"):
        raise BadInput(f"--model {name}: name a YAML config; the weights of a LazyConfig have the same names.")
    cfg = load_config(file, overrides)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def _find_source(path: str) -> str:
    """The local file behind a path or address."""
    with _file_errors(path):
        local = PathManager.get_local_path(path)
    if not os.path.isfile(local):
        raise BadInput(f"{path}: there is no such file.")
    return local


def _check_target(source: str, target: str) -> None:
    if not target.endswith((".pth", ".safetensors")):
        raise BadInput(f"{target}: the new file's name must end in .pth or .safetensors.")
    if os.path.exists(target) and os.path.samefile(source, target):
        raise BadInput(f"{target}: is the input itself, which is not overwritten; choose another name.")


@contextmanager
def _file_errors(prefix: str) -> Iterator[None]:
    """Turn what reading, loading and writing raise into `BadInput`."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        message = str(error)
        raise BadInput(message if prefix in message else f"{prefix}: {message}") from error


def _check_family(keys: list[str], model: nn.Module, args: argparse.Namespace) -> KeyRules:
    """The rules of the file's origin, which must be the model's."""
    known = known_rules()
    found, expected = recognise(keys, known), recognise(model.state_dict(), known)
    if found is None:
        raise BadInput(f"{args.source}: no file of {', '.join(r.model for r in known)}; it has {sample(sorted(keys))}.")
    if found is not expected:
        wanted = expected.model if expected else type(model).__name__
        raise BadInput(
            f"{args.source} is a file of {found.model} ({found.authors}), but --model {args.model} is {wanted}."
        )
    return found


def _report(keys: list[str], rules: KeyRules, model: nn.Module) -> str:
    own = model.state_dict()
    names = {key: rules.rename(key) for key in keys}
    unneeded = sorted(key for key, name in names.items() if name not in own)
    renamed = sum(key != name for key, name in names.items() if name in own)
    left_out = f"{len(unneeded)} left out ({sample(unneeded)})" if unneeded else "none left out"
    return (
        f"{rules.model} of {rules.authors}; {len(keys)} entries, {len(keys) - len(unneeded)} of them used, "
        f"{renamed} renamed, {left_out}"
    )


def write_weights(weights: dict[str, Tensor], path: str) -> None:
    """Save weights, by the end of `path`, as `.safetensors` or as torch's `{"model": weights}`.

    Raises:
        ImportError: `.safetensors` without the package.
        OSError: the file cannot be written.
    """
    if not path.endswith(".safetensors"):
        with open(path, "wb") as file:
            torch.save({"model": weights}, file)
        return
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise ImportError("needs the package safetensors: pip install safetensors") from error
    with open(path, "wb") as file:
        # Copies, because the format has no tensors that share memory.
        file.write(save({name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}))


def verify(cfg: CfgNode, source: str, target: str) -> str:
    """Load each of two checkpoints into a model of its own; compare the weights and the outputs for one image exactly.

    Returns:
        What was compared, for a report.

    Raises:
        BadInput: there is a difference; the message says where.
    """
    cfg = cfg.clone()
    cfg.merge_from_list([word for key in declared(find_model_class(cfg), "score_thresholds") for word in (key, 0.0)])
    image = torch.randint(0, 256, (3, 192, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    models, outputs = [], []
    for seed, path in enumerate((source, target)):
        torch.manual_seed(seed)  # an entry that a file does not fill differs
        models.append(build_model(cfg).eval())
        PentamaskCheckpointer(models[-1]).load(path)
        with torch.no_grad():
            outputs += models[-1]([{"image": image, "height": 192, "width": 256}])
    for what, pair in (("weights", [m.state_dict() for m in models]), ("outputs", outputs)):
        if not _equal(*pair):
            raise BadInput(f"{target} does not give what {source} gives: the {what} of the two models differ.")
    instances = f", {len(outputs[0]['instances'])} instances" if "instances" in outputs[0] else ""
    return f"equal weights, equal outputs ({', '.join(outputs[0])}{instances})"


def _equal(one: Any, other: Any) -> bool:
    """Whether two outputs of a model, or parts of them, are the same bit by bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Instances):
        return one.image_size == other.image_size and _equal(one.get_fields(), other.get_fields())
    if isinstance(one, Boxes):
        return torch.equal(one.tensor, other.tensor)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "convert_weights").parse_args()
    with reported_errors("convert_weights", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
