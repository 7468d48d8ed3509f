"""BlendMask (arXiv 2001.00309)."""

from .basis_module import BasisModule
from .blender import Blender
from .config import add_blendmask_config
from .meta_arch import BlendMask

__all__ = ["BlendMask", "Blender", "BasisModule", "add_blendmask_config"]
