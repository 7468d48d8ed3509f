"""Every config of the model zoo, none sampled: it is exported to ONNX, loads in onnxruntime, and finds the same.

python tests/export/check_all.py [NAME ...] prints a Markdown row for each; the exit status is 1 if one fails. Weights
are random, with the scores spread, and amplify rounding, so the yardstick is how far PyTorch is from itself when its
convolutions are not oneDNN's: a file agrees within 0.5 pixels or five times that, with a tenth of the detections, or
twice as many as of PyTorch's own, alone.
"""

import gc
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from pentamask_runner import Runner
from thin_models import scenes, spread

from pentamask import model_zoo
from pentamask.export import Exportable, export_onnx
from pentamask.export.verify import Agreement, compare, run_eagerly

# Free height and width: smaller, larger and of another shape than what the export was made with.
SIZES = ((192, 256), (333, 250))
_SHOWN = ("NonMaxSuppression", "RoiAlign", "DeformConv", "GridSample", "TopK")


def build(name: str) -> tuple[CfgNode, nn.Module]:
    """Config and model on the CPU, with random weights that find something."""
    torch.manual_seed(0)
    config = model_zoo.get_config(name)
    if isinstance(config, CfgNode):
        config.MODEL.DEVICE, config.MODEL.WEIGHTS = "cpu", ""
        model = build_model(config)
    else:
        model = instantiate(config.model)
    spread(model.eval())
    return config, model


def agreement(
    runner: Runner, module: Exportable, sizes: Sequence[tuple[int, int]]
) -> tuple[list[Agreement], list[Agreement]]:
    """Of file and model, and of the model with itself by other kernels, in a scene brought to each size."""
    found, own = [], []
    for (height, width), scene in zip(sizes, scenes(len(sizes), seed=2)):
        image = torch.nn.functional.interpolate(scene[None].float(), (height, width)).byte()[0].numpy()
        expected = run_eagerly(module, image)
        found.append(compare(expected, runner.run(image)))
        with torch.backends.mkldnn.flags(enabled=False):
            own.append(compare(expected, run_eagerly(module, image)))
    return found, own


def check(name: str) -> tuple[str, bool]:
    """The row of one config, and whether all of it worked."""
    cells = [f"`{name}`"]
    try:
        config, model = build(name)
        with tempfile.TemporaryDirectory() as folder:
            path, start = os.path.join(folder, "model.onnx"), time.process_time()
            size = None
            try:
                export_onnx(model, config, path, config_name=name)
            except ValueError as error:
                if "give --size H W" not in str(error):
                    raise
                size = SIZES[0]
                export_onnx(model, config, path, config_name=name, size=size)
                cells[0] += f" (only for {size[0]} x {size[1]})"
            seconds = time.process_time() - start
            graph = onnx.load(path)
            counts = Counter(node.op_type for node in graph.graph.node)
            cells += [str(graph.opset_import[0].version), str(len(graph.graph.node))]
            cells += [", ".join(f"{op} {counts[op]}" for op in _SHOWN if counts[op])]
            cells += [f"{os.path.getsize(path) / 1e6:.0f}", f"{seconds:.0f}"]
            del graph
            found, own = agreement(Runner(path, threads=1), Exportable(model), [size] if size else SIZES)
        cells += [
            ", ".join(f"{x.expected} / {x.found}" for x in found),
            " / ".join(str(sum(x.unmatched for x in part)) for part in (found, own)),
        ]
        cells += [f"{max(getattr(x, part) for x in found):.0e}" for part in ("boxes", "scores", "masks")]
        passed = all(x.unmatched <= max(0.1 * max(x.expected, x.found), 2 * y.unmatched) for x, y in zip(found, own))
        passed = passed and max(x.boxes for x in found) < max(0.5, 5 * max(x.boxes for x in own))
        cells.append(f"{max(x.boxes for x in own):.0e}")
    except Exception as error:  # every config is tried
        traceback.print_exc()
        return f"| {' | '.join(cells)} | **{type(error).__name__}** |", False
    return f"| {' | '.join(cells)} | {'yes' if passed else '**no**'} |", passed


def main(names: list[str]) -> int:
    """Check `names`, all of the model zoo if there are none; returns the number of failures."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    columns = "config, opset, nodes, of them, MB, CPU s, found: model / file, alone: file / PyTorch itself"
    columns += ", boxes px, scores, masks, PyTorch itself px, agrees"
    print(f"| {' | '.join(columns.split(', '))} |\n{'|---' * 13}|", flush=True)
    failures = 0
    for name in names or model_zoo.list_models():
        row, passed = check(name)
        failures += not passed
        print(row, flush=True)
        gc.collect()
    return failures


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
