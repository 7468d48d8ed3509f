"""pentamask: five mask papers as Detectron2 plugins. Importing it registers models and the names of generated data."""

__version__ = "0.1.0"

from pentamask import backbones, blendmask, fcos, mask_rcnn  # noqa: F401  (registers them)
from pentamask.blendmask import add_blendmask_config
from pentamask.config import add_pentamask_config
from pentamask.data.shapes import register_shapes

register_shapes()

__all__ = ["add_blendmask_config", "add_pentamask_config"]
