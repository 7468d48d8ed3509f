"""Programs of PyTorch: a package that was compiled beforehand, made of a model that the house does not know."""

import json
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torchvision.ops import roi_align

from pentamask import add_pentamask_config
from pentamask.export import Exportable, export_aot
from pentamask.graph import Graph, class_wise_nms, rois_of


class TinyBackbone(Backbone):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"half": ShapeSpec(channels=3, stride=2)}


class TinyGraph(Graph):
    """Bright pixels as boxes, and masks of them by convolutions: a number of regions that is not known before."""

    mask_kind = "roi"
    max_detections = 20

    def dense(self, images: Tensor) -> Tensor:
        return self.model.backbone(images)

    def detect(self, dense: Tensor, n: int, size: tuple[int, int]) -> dict[str, Tensor]:
        rows, columns = (dense[n, 0] > 0.9).nonzero().unbind(1)
        corner = torch.stack((columns, rows), dim=1).float()
        boxes, scores = torch.cat((corner, corner + 6), dim=1), dense[n, 0, rows, columns]
        kept = class_wise_nms(boxes, scores, rows % 2, 0.5)[: self.max_detections]
        masks = self.model.head(roi_align(dense, rois_of(boxes[kept], n), 7))
        return {"boxes": boxes[kept], "scores": scores[kept], "classes": rows[kept] % 2, "masks": masks[:, 0].sigmoid()}


class Tiny(nn.Module):
    graph = TinyGraph

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 100.0))
        self.register_buffer("pixel_std", torch.full((3, 1, 1), 100.0))
        self.backbone = TinyBackbone()
        self.head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, 2))


def test_a_compiled_package_of_another_projects_model(tmp_path) -> None:
    torch.manual_seed(0)
    model: Any = Tiny().eval()
    path = str(tmp_path / "model.pt2")
    cfg = get_cfg()
    add_pentamask_config(cfg)
    export_aot(model, cfg, path)
    package = torch._inductor.aoti_load_package(path)
    assert json.loads(package.get_metadata()["pentamask"])["model"] == "Tiny"
    for size in ((41, 70), (64, 33)):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        with torch.no_grad():
            expected, found = Exportable(model)(image), package(image)
        assert len(expected[0]) == 20
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
