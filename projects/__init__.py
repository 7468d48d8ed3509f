"""pentamask: five mask papers as Detectron2 plugins. Importing it registers their models and nothing else."""

__version__ = "0.1.0"
