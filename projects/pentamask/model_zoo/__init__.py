"""Configs shipped with pentamask and the models that were released for them, as in `detectron2.model_zoo`."""

from .catalog import RELEASES, Release
from .model_zoo import get, get_checkpoint_url, get_config, get_config_file, list_models

__all__ = ["RELEASES", "Release", "get", "get_checkpoint_url", "get_config", "get_config_file", "list_models"]
