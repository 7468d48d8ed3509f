"""A configuration small enough to train in a second or two."""

import pytest
import torch

import pentamask  # noqa: F401


@pytest.fixture
def tiny(shapes, tmp_path) -> list[str]:
    """Options that shrink shapes/BlendMask_R_50_thin.yaml to two iterations on tiny images; OUTPUT_DIR is temporary."""
    torch.manual_seed(0)
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.FCOS.NORM": "GN",  # batch norm needs training before it finds any box
        "MODEL.FCOS.INFERENCE_TH_TEST": 0.0,
        "MODEL.FCOS.POST_NMS_TOPK_TEST": 5,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": "()",
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(tmp_path / "out"),
    }
    return [str(word) for item in options.items() for word in item]
