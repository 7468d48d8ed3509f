"""Configs shipped with pentamask and the models that were released for them, as in `detectron2.model_zoo`."""

from .catalog import list_releases
from .model_zoo import get, get_checkpoint_url, get_config, get_config_file, list_models

__all__ = ["get", "get_checkpoint_url", "get_config", "get_config_file", "list_models", "list_releases"]
