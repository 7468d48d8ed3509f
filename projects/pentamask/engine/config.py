"""`pentamask.engine.load_config` under its former name, for scripts that import it."""

from pentamask.engine.load_config import available_device, find_config_file, load_config

__all__ = ["available_device", "find_config_file", "load_config"]
