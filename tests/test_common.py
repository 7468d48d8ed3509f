"""Names that other packages took, and values that follow from others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from pentamask.common import add_defaults, derive, ignore_keys, vector_of_sizes

# Stands for AdelaiDet and centermask2: claims their names, and sets their keys in Detectron2's own defaults.
ADET = """
from detectron2.config import CfgNode
from detectron2.config.defaults import _C
from detectron2 import modeling

for registry, names in {
    "META_ARCH": ["BlendMask", "OneStageDetector"],
    "PROPOSAL_GENERATOR": ["FCOS"],
    "ROI_HEADS": ["CenterROIHeads"],
    "BACKBONE": [f"build_fcos_{body}_fpn_backbone" for body in ("resnet", "dla", "vovnet", "mobilenetv2")],
}.items():
    for name in names:
        getattr(modeling, f"{registry}_REGISTRY").register(type(name, (), {}))
_C.MODEL.MOBILENET = False
_C.MODEL.FCOS = CfgNode({"NUM_CLASSES": 80, "FPN_STRIDES": [8, 16, 32, 64, 128], "USE_RELU": True, "TOP_LEVELS": 2})
_C.MODEL.BASIS_MODULE = CfgNode({"NAME": "ProtoNet", "COMMON_STRIDE": 8, "NUM_CLASSES": 80})
_C.MODEL.DLA = CfgNode({"CONV_BODY": "DLA34"})
"""
BESIDE = """
import adet
import pentamask
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, build_model
from pentamask import model_zoo

assert META_ARCH_REGISTRY.get("BlendMask").__module__ == "adet"
assert PROPOSAL_GENERATOR_REGISTRY.get("FCOS").__module__ == "adet"
cfg = get_cfg()
pentamask.add_pentamask_config(cfg)
assert cfg.MODEL.FCOS.USE_RELU and cfg.MODEL.FCOS.NMS_TH == 0.6
cfg.merge_from_file(model_zoo.get_config_file("CenterMask/centermask_R_50_FPN_ms_3x.yaml"))
cfg.MODEL.DEVICE = "meta"
assert type(build_model(cfg)) is pentamask.centermask.CenterMask
"""


def test_import_beside_the_authors_packages(tmp_path: Path) -> None:
    """One line says which names stay theirs; what has names of its own works."""
    (tmp_path / "adet.py").write_text(ADET)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", BESIDE], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if "another package" in line]
    for name in ("BlendMask of META_ARCH (adet)", "FCOS of PROPOSAL_GENERATOR (adet)", "build_fcos_dla_fpn_backbone"):
        assert name in line
    assert "PanopticCenterMask" not in line


@pytest.mark.parametrize("given", [(), [], 0, [8, 16], (8, 16)])
def test_derived_value(given: object) -> None:
    assert derive("KEY", given, [8, 16]) == [8, 16]


@pytest.mark.parametrize(("given", "right"), [([8, 32], [8, 16]), ([8], [8, 16]), (4, 8), ((0.25, 0.125), 0.25)])
def test_contradicting_value_is_refused(given: object, right: object) -> None:
    with pytest.raises(ValueError, match="^A.KEY is .* give .*: set it to that, or leave it out"):
        derive("A.KEY", given, right)


def test_defaults_keep_what_is_set() -> None:
    node = CfgNode({"A": 1, "B": CfgNode({"C": 2})})
    add_defaults(node, A=5, B=dict(C=6, D=7))
    assert node == CfgNode({"A": 1, "B": CfgNode({"C": 2, "D": 7})})


def test_ignored_key_may_be_set_and_registered_twice() -> None:
    node = CfgNode({"A": 1})
    ignore_keys(node, "B")
    ignore_keys(node, "B")
    node.merge_from_list(["B", 3, "A", 2])
    assert node == CfgNode({"A": 2})


def test_vector_of_sizes_follows_a_traced_input() -> None:
    like = torch.zeros((), dtype=torch.float64)
    assert torch.equal(vector_of_sizes([3, 5], like), torch.tensor([3.0, 5.0], dtype=torch.float64))
    traced = torch.jit.trace(lambda x: vector_of_sizes(x.shape, like), torch.ones(2, 3))
    assert torch.equal(traced(torch.ones(7, 4)), torch.tensor([7.0, 4.0], dtype=torch.float64))
