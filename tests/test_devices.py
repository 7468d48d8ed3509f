"""Models on a GPU: the same numbers where there is one, and without one that nothing waits for the host.

Fake tensors, which have a device and no contents, show the latter: reading a value on the host fails with them.
"""

import copy
from typing import Any
from unittest import mock

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import ImageList, Instances
from thin_models import build_thin, scenes
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pentamask.fcos import FCOS
from pentamask.panoptic_segformer import PanopticSegFormer
from pentamask.yolact.inference import Postprocessor

# The thin model of each paper, and where its dense part ends: what comes then chooses objects.
MODELS = {
    "BlendMask": (FCOS, "detect"),
    "CenterMask_Lite": (FCOS, "detect"),
    "YOLACT": (Postprocessor, "detect"),
    "MaskRCNN": (DefaultAnchorGenerator, "forward"),  # which are Detectron2's, made on the CPU
    "PanopticSegFormer": (PanopticSegFormer, "_panoptic_seg"),
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


def to_fake_gpu(model: nn.Module) -> nn.Module:
    """`model` with all parameters and buffers as fake tensors on a GPU; must be called in a `FakeTensorMode`."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    tensors[name] = nn.Parameter(fake) if isinstance(tensor, nn.Parameter) else fake
    return model


class DensePartEnds(Exception):
    """The model has come to the choice of objects."""


class NoCopies(TorchDispatchMode):
    """Fails where a tensor goes from the CPU to the GPU or back and is waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten._pin_memory.default:  # which fake tensors lack
            return args[0]
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            if source.device != result.device and not (kwargs or {}).get("non_blocking"):
                raise RuntimeError(f"{func} copies {tuple(source.shape)} from {source.device} to {result.device}")
        return result


def run_dense_part(model: nn.Module, end: tuple[type, str]) -> None:
    """Inference of a model on the fake GPU, from an image that lies there, to `end`."""
    model._forward_pre_hooks.clear()  # looks at the image's values, which lie on the CPU as a rule
    image = torch.zeros(3, 96, 128, dtype=torch.uint8, device="cuda")
    # Detectron2 pads by numbers that it computes with tensors on the CPU, which are real ones otherwise.
    batch = mock.patch.object(
        ImageList, "from_tensors", lambda images, *_, **__: ImageList(torch.stack(images), [(96, 128)])
    )
    ending = mock.patch.object(*end, side_effect=DensePartEnds)
    with ending, batch, torch.no_grad(), pytest.raises(DensePartEnds), NoCopies():
        model([{"image": image}])


@pytest.mark.parametrize("name", MODELS)
def test_dense_part_does_not_wait_for_the_host(name: str) -> None:
    model = build_thin(f"{name}_R_50_thin")[1]
    with FakeTensorMode():
        run_dense_part(to_fake_gpu(model), MODELS[name])


def test_waiting_is_found() -> None:
    class Waits(nn.Module):
        def __init__(self, wait: Any) -> None:
            super().__init__()
            self.wait = wait

        def forward(self, inputs: list[dict]) -> None:
            self.wait(inputs[0]["image"])
            raise DensePartEnds

    end = (FCOS, "detect")
    with FakeTensorMode():
        run_dense_part(Waits(lambda x: x + 1), end)
        for wait in (torch.Tensor.item, torch.Tensor.nonzero, torch.Tensor.cpu, lambda x: x[x > 0]):
            with pytest.raises(Exception):  # noqa: B017  # each its own kind
                run_dense_part(Waits(lambda x, wait=wait: wait(x.sum() if wait is torch.Tensor.item else x)), end)
        with pytest.raises(RuntimeError, match="from cpu to cuda"):
            run_dense_part(Waits(lambda x: torch.zeros(3).to(x.device)), end)


def check_near(actual: Instances, expected: Instances) -> None:
    """As many objects with the same scores and mask areas; which of two equal ones comes first may differ."""
    assert len(actual) == len(expected) > 0
    torch.testing.assert_close(actual.scores.sort()[0].cpu(), expected.scores.sort()[0], rtol=1e-4, atol=1e-5)
    areas = [x.pred_masks.float().mean().item() for x in (actual, expected)]
    assert areas[0] == pytest.approx(areas[1], abs=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_same_results_on_every_device(name: str, device: str) -> None:
    model = build_thin(f"{name}_R_50_thin")[1]
    inputs = [{"image": image} for image in scenes(2)]
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        expected, actual = (m(inputs) for m in (model, copy.deepcopy(model).to(device)))
    for a, b in zip(actual, expected, strict=True):
        check_near(a["instances"], b["instances"])
