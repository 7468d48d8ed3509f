"""Two workers with an image each have, on average, the losses of one worker with both images."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.structures import Boxes, Instances

from pentamask.fcos import FCOS, FCOSHead
from pentamask.fcos.head import FCOSOutputs


def build(box_quality: str) -> FCOS:
    head = FCOSHead(in_channels=32, num_classes=3, num_levels=1, num_cls_convs=0, num_box_convs=0)
    return FCOS(
        fcos_head=head,
        in_features=["p3"],
        strides=[8],
        num_classes=3,
        sizes_of_interest=[],
        box_quality=box_quality,
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


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {quality: losses(slice(rank, rank + 1), quality) for quality in ("ctrness", "iou")}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_losses_of_two_workers(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for quality in ("ctrness", "iou"):
        for name, expected in losses(slice(0, 2), quality).items():
            torch.testing.assert_close((results[0][quality][name] + results[1][quality][name]) / 2, expected)
