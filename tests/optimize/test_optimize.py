"""An optimised model gives what the model gives, and says so where it cannot serve."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

import pentamask
from pentamask import model_zoo
from pentamask.ops import has_compiled_ops
from pentamask.optimize import compile_dense_parts
from pentamask.optimize.layers import FusedBottleneckBlock, PackedConv2d, PackedLinear
from pentamask.plugin import declared

needs_ops = pytest.mark.skipif(not has_compiled_ops(), reason="the compiled ops are not built")
CONFIGS = ["BlendMask", "CenterMask_Lite", "YOLACT", "MaskRCNN", "PanopticSegFormer"]


def randomise(model: nn.Module) -> nn.Module:
    """Statistics of batch norm that do something, and weights that give detections of any score."""
    rng = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=rng) * 0.5 + 0.75)
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=rng) * 0.1)
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_logits.bias", "cls_score.bias", "conf_layer.bias")):
            parameter.data.copy_(torch.randn(parameter.shape, generator=rng))
    return model.eval()


def assert_same_results(actual: dict, expected: dict) -> None:
    a, b = actual["instances"], expected["instances"]
    assert len(a) == len(b) > 0
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, rtol=1e-3, atol=1e-2)
    assert torch.equal(a.pred_classes, b.pred_classes)
    assert (a.pred_masks == b.pred_masks).float().mean() > 0.999


@pytest.mark.parametrize("name", CONFIGS)
def test_the_thin_models_give_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = randomise(model_zoo.get(f"shapes/{name}_R_50_thin.yaml", device="cpu"))
    before = copy.deepcopy(model.state_dict())
    optimised = pentamask.optimize_for_inference(model)
    assert type(optimised) is type(model) and optimised is not model
    inputs = [{"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8), "height": 100, "width": 130}]
    with torch.inference_mode():
        assert_same_results(optimised(inputs)[0], model(inputs)[0])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if has_compiled_ops():
        assert any(isinstance(module, PackedConv2d | PackedLinear) for module in optimised.modules())
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in optimised.modules())


def test_training_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    optimised = pentamask.optimize_for_inference(model)
    assert not optimised.training and optimised.eval() is optimised
    with pytest.raises(RuntimeError, match="optimised for inference and cannot be trained"):
        optimised.train()
    with pytest.raises(RuntimeError, match="optimised for inference"):
        copy.deepcopy(optimised).train()
    assert model.train().training and model[0].weight.requires_grad


def test_in_place_and_example() -> None:
    seen = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model.register_forward_hook(lambda *_: seen.append(1))
    assert pentamask.optimize_for_inference(model, torch.ones(1, 3, 5, 5), in_place=True) is model
    assert seen == [1]


def chain() -> nn.Module:
    """Every way that batch norm and ReLU follow a convolution."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(32), FrozenBatchNorm2d(48)]
    model = nn.Sequential(
        Conv2d(16, 32, 3, padding=1, bias=False, norm=norms[0], activation=nn.functional.relu),
        nn.Sequential(nn.Conv2d(32, 48, 1, bias=False), norms[1], nn.ReLU()),
        nn.Sequential(nn.Conv2d(48, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(4, 64), nn.ReLU()),
        BottleneckBlock(64, 128, bottleneck_channels=32, stride=2, norm="FrozenBN"),
        BottleneckBlock(128, 128, bottleneck_channels=32, num_groups=4, norm="BN"),
        nn.Conv2d(128, 7, 1, stride=2),
    )
    return randomise(model)


def test_batch_norms_and_activations_are_part_of_the_convolutions() -> None:
    model = chain()
    x = torch.randn(2, 16, 33, 41)
    optimised = pentamask.optimize_for_inference(model)
    with torch.no_grad():
        torch.testing.assert_close(optimised(x), model(x), rtol=1e-4, atol=1e-5)
    assert not [m for m in optimised.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    if has_compiled_ops():
        assert type(optimised[4]) is type(optimised[5]) is FusedBottleneckBlock
        assert [m for m in optimised.modules() if type(m) is nn.ReLU] == [optimised[2][2], optimised[3][2]]


@needs_ops
def test_packed_weights_serve_only_where_they_fit() -> None:
    model = chain()
    optimised = pentamask.optimize_for_inference(model)
    x = torch.randn(1, 16, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(optimised(x), model(x), rtol=0.1, atol=0.1)
    with torch.no_grad():
        torch.testing.assert_close(
            copy.deepcopy(optimised).double()(x.double()), model(x).double(), rtol=1e-4, atol=1e-5
        )
        exported = torch.export.export(optimised.float(), (x,))
    assert not any("pentamask" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), optimised(x), rtol=1e-4, atol=1e-5)


def test_what_is_not_known_exactly_stays() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    model = nn.Sequential(
        Own(16, 16, 1),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.BatchNorm2d(16, track_running_stats=False),
    ).eval()
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(pentamask.optimize_for_inference(model)(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_dense_parts_are_modules_of_the_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiled.append((module, options)))
    model = model_zoo.get(f"shapes/{name}_R_50_thin.yaml", device="cpu")
    assert compile_dense_parts(model) is model
    assert compiled[0] == (model.backbone, {"dynamic": True})
    assert len(compiled) == len(set(declared(type(model), "dense_parts")))


def test_a_compiled_part_gives_the_same_for_any_size() -> None:
    model = model_zoo.get("shapes/YOLACT_R_50_thin.yaml", device="cpu").eval()
    compiled = compile_dense_parts(copy.deepcopy(model))
    assert set(compiled.state_dict()) == set(model.state_dict())
    with torch.no_grad():
        for size in ((64, 96), (96, 64)):
            x = torch.randn(1, 64, *size)
            torch.testing.assert_close(compiled.proto_net(x), model.proto_net(x), rtol=1e-4, atol=1e-5)
