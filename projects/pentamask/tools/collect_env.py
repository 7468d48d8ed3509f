"""What to send with a question: Detectron2's table of the environment, and pentamask's.

python -m pentamask.tools.collect_env
"""

import argparse
import os
from importlib.metadata import PackageNotFoundError, version

import torch
from detectron2.utils.collect_env import collect_env_info
from tabulate import tabulate

from pentamask import __version__
from pentamask.engine.command_line import add_debug_flag, reported_errors
from pentamask.ops import has_compiled_ops
from pentamask.plugin import registered_models

_OPERATORS = ("blend", "spatial_attention", "ms_deform_attn")
_OPTIONAL = ("scipy", "shapely", "hotcoco", "onnx", "onnxruntime", "openvino", "jinja2", "gradio")


def describe() -> str:
    """pentamask's part: version, which operators are compiled and for what, models, optional packages."""
    rows = [("pentamask", __version__), ("in", os.path.dirname(os.path.dirname(__file__)))]
    for name in _OPERATORS:
        devices = [device for device in ("cpu", "cuda") if has_compiled_ops(device)]
        rows.append((f"operator {name}", f"compiled for {', '.join(devices)}" if devices else "plain PyTorch"))
    instructions = os.environ.get("PENTAMASK_CPU_CAPABILITY") or torch.backends.cpu.get_cpu_capability()
    rows.append(("instruction set", instructions))
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows.append(("GPUs", ", ".join(gpus) or "none"))
    rows.append(("CUDA architectures of PyTorch", " ".join(torch.cuda.get_arch_list()) or "none"))
    models = [model.__name__ for model in registered_models() if model.__module__.startswith("pentamask.")]
    rows.append(("models", ", ".join(models)))
    rows += [(name, _version_of(name)) for name in _OPTIONAL]
    return tabulate(rows)


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(description="What to send with a question about pentamask.")
    args = add_debug_flag(parser, "collect_env").parse_args()
    with reported_errors("collect_env", debug=args.debug):
        print(collect_env_info())
        print(describe())


if __name__ == "__main__":
    cli()
