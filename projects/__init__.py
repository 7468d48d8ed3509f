"""pentamask: five mask papers as Detectron2 plugins. Importing it registers models and the generated dataset's names."""

__version__ = "0.1.0"

from pentamask.data.shapes import register_shapes

register_shapes()
