"""The operators' operations, counted by hand, in the analyses of fvcore and Detectron2."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.analysis import FlopCountAnalysis, activation_count_operators
from fvcore.nn import FlopCountAnalysis as PlainFlopCountAnalysis
from torch import nn

from pentamask import model_zoo, ops

pytestmark = pytest.mark.skipif(not ops.has_compiled_ops(), reason="the compiled ops are not built")
MODELS = ("BlendMask", "CenterMask_Lite", "YOLACT", "MaskRCNN", "PanopticSegFormer")
WARNINGS = ("ignore:torch.meshgrid", "ignore:To copy construct from a tensor")  # Detectron2's and torchvision's, traced


class Blend(nn.Module):
    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return ops.blend(*args, 0.25, 6)


class SpatialAttention(nn.Module):
    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return ops.spatial_attention(*args)


class DeformableAttention(nn.Module):
    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return ops.ms_deform_attn(*args)


def count(module: nn.Module, *args: torch.Tensor) -> dict[str, float]:
    return dict(PlainFlopCountAnalysis(module, args).by_operator())


def test_blend() -> None:
    rois = torch.tensor([[0.0, 1.0, 1.0, 20.0, 18.0]]).expand(3, 5)
    # 3 instances of 6 x 6, 4 maps: 4 for a crop, 4 for the attention, 1 for the product
    assert count(Blend(), torch.rand(1, 4, 9, 9), rois, torch.rand(3, 4, 7, 7)) == {"blend": 3 * 36 * 4 * 9}


def test_spatial_attention() -> None:
    # 2 RoIs of 5 x 7, 2 * 3 * 3 taps per pixel, 10 channels in the mean and in the product
    flops = count(SpatialAttention(), torch.rand(2, 10, 5, 7), torch.rand(1, 2, 3, 3))
    assert flops == {"spatial_attention": 2 * 35 * (18 + 20)}


def test_ms_deform_attn() -> None:
    # 2 images, 3 queries, 4 heads, 2 levels, 5 points, 8 channels: 4 for a sample, 1 for its weight
    shapes, starts = torch.tensor([[3, 4], [2, 2]]), torch.tensor([0, 12])
    flops = count(
        DeformableAttention(),
        torch.rand(2, 16, 4, 8),
        shapes,
        starts,
        torch.rand(2, 3, 4, 2, 5, 2),
        torch.rand(2, 3, 4, 2, 5),
    )
    assert flops == {"ms_deform_attn": 2 * 3 * 4 * 2 * 5 * 8 * 5}


@pytest.mark.filterwarnings(*WARNINGS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_analysed(name: str) -> None:
    """As Detectron2's tools/analyze_model.py does it."""
    cfg = model_zoo.get_config(f"shapes/{name}_R_50_thin.yaml")
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    inputs = [{"image": torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)}]
    analysis = FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = analysis.by_operator()
    # The stem: 7 x 7 taps of 3 channels for 32 at half the size; YOLACT makes every image 144 x 144.
    modules = analysis.by_module_and_operator()
    stem = next(flops for module, flops in modules.items() if module.endswith("stem.conv1"))
    assert stem["conv"] == (72 * 72 if name == "YOLACT" else 32 * 48) * 32 * 3 * 49
    assert not [op for op in analysis.unsupported_ops() if op.startswith("pentamask::")]
    assert ("ms_deform_attn" in by_operator) == (name == "PanopticSegFormer")
    assert activation_count_operators(model, inputs)["conv"] > 0
