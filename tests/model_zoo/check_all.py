"""Every config of the model zoo, none sampled: it builds, loads its authors' file completely, and its forward runs.

python tests/model_zoo/check_all.py [NAME ...] prints a Markdown row for each; the exit status is 1 if one fails.
"""

import gc
import logging
import sys
import tempfile
import traceback
from pathlib import Path

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from authors_files import write_authors_file

from pentamask import model_zoo
from pentamask.checkpoint.loader import load_completely

HEIGHT, WIDTH = 128, 160


def build(name: str) -> nn.Module:
    """The config's model on the CPU with random weights."""
    config = model_zoo.get_config(name)
    if not isinstance(config, CfgNode):
        return instantiate(config.model)
    config.MODEL.DEVICE = "cpu"
    return build_model(config)


def load(model: nn.Module) -> str:
    """Write the authors' file, spoil the model, load it: everything must be as before."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_authors_file(model, Path(folder))
        expected = {name: value.clone() for name, value in model.state_dict().items()}
        for value in model.state_dict().values():
            value.fill_(float("nan") if value.is_floating_point() else 0)
        load_completely(model, path)
    torch.testing.assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)
    return f"{len(expected)} entries"


def forward(model: nn.Module) -> str:
    """Run one image; its outputs must have its size."""
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (output,) = model.eval()([{"image": image, "height": HEIGHT, "width": WIDTH}])
    assert output.keys() & {"instances", "panoptic_seg"}, f"outputs {list(output)}"
    if "instances" in output:
        assert output["instances"].image_size == (HEIGHT, WIDTH)
        assert output["instances"].scores.isfinite().all()
    if "panoptic_seg" in output:
        assert output["panoptic_seg"][0].shape == (HEIGHT, WIDTH)
    return ", ".join(output)


def check(name: str) -> tuple[str, bool]:
    """The row of one config, and whether all of it worked."""
    cells, model = [f"`{name}`"], None
    try:
        torch.manual_seed(0)
        model = build(name)
        cells += [f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M", "yes"]
        cells.append(load(model))
        cells.append(forward(model))
    except Exception as error:  # every config is tried
        traceback.print_exc()
        cells += [f"**{type(error).__name__}**"] + [""] * (4 - len(cells))
        return f"| {' | '.join(cells)} |", False
    return f"| {' | '.join(cells)} |", True


def main(names: list[str]) -> int:
    """Check `names`, all of the model zoo if there are none; returns the number of failures."""
    logging.disable(logging.WARNING)
    print("| config | parameters | builds | loads | forward |\n|---|---|---|---|---|", flush=True)
    failures = 0
    for name in names or model_zoo.list_models():
        row, passed = check(name)
        failures += not passed
        print(row, flush=True)
        gc.collect()
    return failures


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
