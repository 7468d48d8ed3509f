"""pentamask: five mask papers as Detectron2 plugins. Importing it registers models and the names of generated data."""

import os

__version__ = "0.1.0"

# OpenMP asks once, when torch is loaded. A training step enters about a thousand short parallel regions, and by default
# a thread that has done its part spins until the others have: beside any other work it takes the cores that these need,
# and a step takes ten times as long and more. So it sleeps, but not before it has spun for some microseconds, without
# which a step on idle cores takes half as long again. Child processes inherit the setting.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

try:
    import detectron2.modeling  # noqa: F401  (also needs torch and torchvision)
except ImportError as error:
    raise ImportError(
        f"pentamask needs PyTorch, torchvision and Detectron2, and one of them cannot be imported ({error}). "
        "Install PyTorch and torchvision first (pytorch.org), then Detectron2, either from its sources:\n"
        "    pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2.git\n"
        "or, without a compiler, from the package index, as pentamask's README.md describes:\n"
        "    pip install --no-deps --only-binary=:all: --python-version 3.10 --implementation cp --abi none "
        '--target "$(python -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')" sal-detectron2==0.7.2'
    ) from error

from pentamask import (  # noqa: F401  (registers them)
    backbones,
    blendmask,
    centermask,
    fcos,
    mask_rcnn,
    panoptic_segformer,
    yolact,
)
from pentamask.blendmask import add_blendmask_config
from pentamask.centermask import add_centermask_config
from pentamask.checkpoint.path_handler import register_checkpoint_handler
from pentamask.common import report_taken_names
from pentamask.config import add_pentamask_config
from pentamask.data.person_in_context import register_person_in_context
from pentamask.data.shapes import register_shapes
from pentamask.evaluation.flops import register_flop_handles
from pentamask.optimize import optimize_for_inference
from pentamask.panoptic_segformer import add_panoptic_segformer_config
from pentamask.plugin import load_foreign_plugins
from pentamask.yolact import add_yolact_config

register_person_in_context()
register_shapes()
register_checkpoint_handler()
register_flop_handles()
report_taken_names()
load_foreign_plugins()

__all__ = [
    "add_blendmask_config",
    "add_centermask_config",
    "add_panoptic_segformer_config",
    "add_pentamask_config",
    "add_yolact_config",
    "optimize_for_inference",
]
