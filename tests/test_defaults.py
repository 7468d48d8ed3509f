"""What a constructor takes by default, as in a LazyConfig, is what an unchanged config gives it."""

import inspect

import pytest
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec

from pentamask import add_pentamask_config
from pentamask.blendmask import BasisModule, Blender
from pentamask.centermask import MaskIoUHead
from pentamask.fcos import FCOS, FCOSHead
from pentamask.mask_rcnn import FCNMaskHead, MLPMaskHead
from pentamask.yolact.inference import Postprocessor
from pentamask.yolact.losses import YolactLoss

LEVELS = {f"p{level}": ShapeSpec(channels=256, stride=2**level) for level in range(3, 8)}
POOLED = ShapeSpec(channels=256, height=14, width=14)


@pytest.mark.parametrize(
    ("built", "shapes"),
    [
        (FCOS, [LEVELS]),
        (FCOSHead, [list(LEVELS.values())]),
        (BasisModule, [LEVELS]),
        (Blender, [LEVELS]),
        (MaskIoUHead, [POOLED]),
        (FCNMaskHead, [POOLED]),
        (MLPMaskHead, [POOLED]),
        (YolactLoss, []),
        (Postprocessor, []),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_constructors_have_the_defaults_of_the_config(built, shapes):
    cfg = get_cfg()
    add_pentamask_config(cfg)
    given = built.from_config(cfg, *shapes)
    defaults = {name: p.default for name, p in inspect.signature(built.__init__).parameters.items()}
    defaults = {name: value for name, value in defaults.items() if value not in (inspect.Parameter.empty, None)}
    assert defaults and {name: given[name] for name in defaults if name in given} == {
        name: value for name, value in defaults.items() if name in given
    }
