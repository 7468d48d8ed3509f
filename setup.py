"""Builds the package `pentamask` from `projects/`, with `configs/` inside it and the ops of `csrc/` compiled."""

import glob
import os

from setuptools import find_packages, setup

PACKAGES = ["pentamask", *(f"pentamask.{name}" for name in find_packages("projects"))]


def get_extensions() -> tuple[list, dict]:
    """The compiled ops and the build command for them; nothing when the user or the environment rules them out."""
    sources = sorted(glob.glob("csrc/*.cpp") + glob.glob("csrc/cpu/*.cpp"))
    if not sources or os.environ.get("PENTAMASK_NO_EXTENSION") == "1":
        return [], {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    extension = CppExtension("pentamask._C", sources, extra_compile_args=["-O3", "-fopenmp"])
    return [extension], {"build_ext": BuildExtension}


ext_modules, cmdclass = get_extensions()
setup(
    name="pentamask",
    version="0.1.0",
    description="BlendMask, CenterMask, YOLACT, Mask R-CNN and Panoptic SegFormer as Detectron2 plugins",
    python_requires=">=3.10",
    package_dir={"pentamask": "projects", "pentamask.configs": "configs"},
    packages=[*PACKAGES, "pentamask.configs"],
    package_data={"pentamask.configs": ["*/*.yaml", "*/*/*.yaml", "*/*.py", "*/*/*.py"], "pentamask": ["py.typed", "*/README.md"]},
    ext_modules=ext_modules,
    cmdclass=cmdclass,
    zip_safe=False,
)
