"""Run the model once more on the batch whose loss was not finite, and say where that begins.

python -m pentamask.tools.replay_batch --config-file FCOS/R_50_1x.yaml output/nonfinite_batch.pth [KEY VALUE ...]
"""

import argparse

from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from pentamask.checkpoint.files import read_checkpoint
from pentamask.engine.checks import BadInput
from pentamask.engine.command_line import add_config_options, add_debug_flag, reported_errors
from pentamask.engine.inference import build_any_model, load_runnable_config
from pentamask.engine.load_config import overrides_of
from pentamask.engine.step import load_batch


def get_parser() -> argparse.ArgumentParser:
    """The command line's."""
    parser = argparse.ArgumentParser(description="Find out why a loss was not finite.")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config file or name in the model zoo")
    parser.add_argument("batch", metavar="FILE", help="nonfinite_batch.pth from OUTPUT_DIR")
    add_config_options(parser)
    return parser


def main(args: argparse.Namespace) -> dict[str, float]:
    """Print the first module with an output that is not finite, and the losses, which are also returned.

    Raises:
        BadInput: the file or the config cannot be used.
    """
    saved = read_checkpoint(args.batch)
    if "batch" not in saved:
        raise BadInput(f"{args.batch}: a checkpoint, not a batch that train_net saved.")
    fresh = overrides_of(args.config_file, {("MODEL.WEIGHTS", "train.init_checkpoint"): ""})  # the file has them
    model = build_any_model(load_runnable_config(args.config_file, [*args.opts, *fresh])).train()
    for name, weight in model.state_dict().items():  # load_state_dict refuses what is not finite
        weight.copy_(saved["model"][name])
    first: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(_note_nonfinite(name or "the model", first))
    with EventStorage(saved["iteration"]):
        try:
            losses = {name: loss.item() for name, loss in model(load_batch(saved["batch"])).items()}
        except (FloatingPointError, ValueError, RuntimeError) as error:
            print(f"The model stopped: {error}")
            losses = {}
    print(f"Iteration {saved['iteration']}. First output that is not finite: {first[0] if first else 'none'}.")
    for name, loss in losses.items():
        print(f"{name}: {loss:.6g}")
    return losses


def _note_nonfinite(name: str, first: list[str]):
    def hook(module: nn.Module, inputs: tuple, output: object) -> None:
        if not first and any(not tensor.isfinite().all() for tensor in _tensors(output)):
            first.append(name)

    return hook


def _tensors(output: object) -> list[Tensor]:
    """The floating-point tensors within the containers of an output."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    return [x for item in output for x in _tensors(item)] if isinstance(output, (list, tuple)) else []


def cli() -> None:
    """The command line; an error ends in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "replay_batch").parse_args()
    with reported_errors("replay_batch", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
