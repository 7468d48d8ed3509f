"""pentamask: five mask papers as Detectron2 plugins. Importing it registers models and the names of generated data."""

__version__ = "0.1.0"

from pentamask.data.shapes import register_shapes

register_shapes()
