"""Two workers with an image each have, on average, the losses of one worker with both images."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.structures import Boxes, Instances

from pentamask.fcos import FCOS, FCOSHead
from pentamask.fcos.head import FCOSOutputs


def build(box_quality: str = "ctrness", cls_normalizer: str = "fg") -> FCOS:
    head = FCOSHead(in_channels=32, num_classes=3, num_levels=1, num_cls_convs=0, num_box_convs=0)
    return FCOS(
        fcos_head=head,
        in_features=["p3"],
        strides=[8],
        num_classes=3,
        sizes_of_interest=[],
        box_quality=box_quality,
        cls_normalizer=cls_normalizer,
    )


def losses(images: slice, box_quality: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits, reg, ctrness = (torch.randn(2, c, 6, 6, generator=generator)[images] for c in (3, 4, 1))
    boxes = [[[0.0, 0.0, 40.0, 44.0]], [[4.0, 4.0, 20.0, 20.0], [16.0, 8.0, 46.0, 46.0]]]
    ground_truth = []
    for b in boxes[images]:
        ground_truth.append(Instances((48, 48), gt_boxes=Boxes(torch.tensor(b))))
        ground_truth[-1].gt_classes = torch.zeros(len(b), dtype=torch.long)
    outputs = FCOSOutputs([logits], [reg.relu()], [ctrness], [logits])
    return build(box_quality).losses(outputs, ground_truth)[1]


def class_loss_per_location(rank: int) -> torch.Tensor:
    """Of an image without objects, with 36 locations on the first worker and 18 on the second."""
    width = (6, 3)[rank]
    logits = torch.randn(1, 3, 6, width, generator=torch.Generator().manual_seed(rank))
    gt = Instances((48, 8 * width), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.long))
    outputs = FCOSOutputs([logits], [torch.ones(1, 4, 6, width)], [torch.zeros(1, 1, 6, width)], [logits])
    return build(cls_normalizer="all").losses(outputs, [gt])[1]["loss_fcos_cls"]


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {quality: losses(slice(rank, rank + 1), quality) for quality in ("ctrness", "iou")}
    results["all"] = class_loss_per_location(rank)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_losses_of_two_workers(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for quality in ("ctrness", "iou"):
        for name, expected in losses(slice(0, 2), quality).items():
            torch.testing.assert_close((results[0][quality][name] + results[1][quality][name]) / 2, expected)
    sums = 36 * class_loss_per_location(0) + 18 * class_loss_per_location(1)
    torch.testing.assert_close((results[0]["all"] + results[1]["all"]) / 2, sums / 54)
