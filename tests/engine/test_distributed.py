"""Two processes train as one with both images: the same gradients, also where an image or both have no object."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pycocotools.mask as mask_util
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from pentamask import model_zoo
from pentamask.checkpoint.loader import PentamaskCheckpointer
from pentamask.engine.checks import BadInput
from pentamask.engine.launch import Place, distribute, find_place
from pentamask.engine.trainer import Trainer

# Mask R-CNN is Detectron2's, whose normalisers are those of each process.
NAMES = [f"{name}_R_50_thin" for name in ("BlendMask", "CenterMask_Lite", "YOLACT", "PanopticSegFormer")]
SITUATIONS = {"both with objects": (2, 3), "one without": (0, 2), "both without": (0, 0)}


def make_model(name: str) -> nn.Module:
    """A thin model whose layers look at one image at a time, and draw no random numbers."""
    cfg = model_zoo.get_config(f"shapes/{name}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.MASKIOU_ON = cfg.MODEL.MASK_ON
    cfg.MODEL.YOLACT.BN_MIN_BATCH = 0  # it counts the images of a process
    cfg.MODEL.YOLACT.MASKS_TO_TRAIN = 10000  # more are drawn at random
    torch.manual_seed(0)
    model = build_model(cfg)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model.double()


def make_input(number: int, count: int) -> dict:
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)
    starts = torch.tensor([[4.0, 4.0], [20.0, 10.0], [30.0, 28.0]], dtype=torch.float64)[:count].reshape(-1, 2)
    boxes = torch.cat([starts, starts + 24], dim=1)
    masks = torch.zeros(count, 64, 64, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1 + 2 : y2, x1:x2] = True
    instances = Instances((64, 64), gt_boxes=Boxes(boxes), gt_masks=BitMasks(masks))
    instances.gt_classes = torch.arange(count)
    instances.gt_boxes.tensor = boxes  # Boxes makes them float32
    return {"image": image, "height": 64, "width": 64, "instances": instances}


def gradients(model: nn.Module, inputs: list[dict]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    with EventStorage():
        sum(model(inputs).values()).backward()
    return {n.removeprefix("module."): p.grad for n, p in model.named_parameters() if p.grad is not None}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    results = {}
    for name in NAMES:
        for situation, counts in SITUATIONS.items():
            model = distribute(make_model(name), broadcast_buffers=False)
            results[name, situation] = gradients(model, [make_input(rank, counts[rank])])
    if rank == 0:
        torch.save(results, f"{folder}/gradients.pt")
    sync_batch_norm(rank, folder)
    if (evaluated := evaluate(folder)) and rank == 0:
        torch.save(dict(evaluated), f"{folder}/evaluated.pt")
    load_what_one_process_sees(rank, folder)
    dist.destroy_process_group()


def sync_batch_norm(rank: int, folder: str) -> None:
    """Save what a network with batch norm over both processes gives for half of the images each."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.SyncBatchNorm(3))
    parameters = list(net.parameters())
    model = distribute(net, broadcast_buffers=False)
    assert isinstance(model.module[1], NaiveSyncBatchNorm)
    assert all(p is q for p, q in zip(parameters, model.parameters()))
    images = torch.arange(32.0).reshape(4, 2, 2, 2)
    torch.save(model(images[2 * rank : 2 * rank + 2]).detach(), f"{folder}/norm{rank}.pt")


class Copying(nn.Module):
    """Predicts the objects of the shapes data, every third one as another class, so that AP is neither 0 nor 100."""

    def __init__(self) -> None:
        super().__init__()
        self.records = {x["image_id"]: x for x in DatasetCatalog.get("shapes_val")}

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        return [{"instances": self.predict(self.records[x["image_id"]])} for x in batched_inputs]

    def predict(self, record: dict) -> Instances:
        size = record["height"], record["width"]
        annotations = record["annotations"]
        masks = torch.stack([torch.from_numpy(mask_util.decode(x["segmentation"])).bool() for x in annotations])
        boxes = BoxMode.convert(
            torch.tensor([x["bbox"] for x in annotations]).float(), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS
        )
        number = torch.arange(len(annotations)) + record["image_id"]
        classes = torch.tensor([x["category_id"] for x in annotations])
        instances = Instances(size, pred_masks=masks, pred_boxes=Boxes(boxes), scores=1 / (1 + number))
        instances.pred_classes = torch.where(number % 3 == 0, (classes + 1) % 6, classes)
        return instances


def evaluate(folder: str) -> dict:
    cfg = model_zoo.get_config("shapes/BlendMask_R_50_thin.yaml")
    cfg.MODEL.DEVICE, cfg.DATALOADER.NUM_WORKERS, cfg.OUTPUT_DIR = "cpu", 0, folder
    return Trainer.test(cfg, Copying())


def load_what_one_process_sees(rank: int, folder: str) -> None:
    """A file that is only there for the main process reaches the others."""
    model = distribute(nn.Linear(2, 2), broadcast_buffers=False)
    path = f"{folder}/weights.pth" if rank == 0 else f"{folder}/elsewhere.pth"
    if rank == 0:
        torch.save({"model": {"weight": torch.full((2, 2), 7.0), "bias": torch.zeros(2)}}, path)
    comm.synchronize()
    PentamaskCheckpointer(model).load(path)
    assert model.module.weight.eq(7).all()


@pytest.fixture(scope="module")
def folder(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(worker, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_two_processes_are_those_of_one(name: str, situation: str, folder: Path) -> None:
    distributed = torch.load(folder / "gradients.pt")[name, situation]
    single = gradients(make_model(name), [make_input(n, count) for n, count in enumerate(SITUATIONS[situation])])
    assert distributed.keys() >= {key for key, grad in single.items() if grad.abs().sum() > 0}
    scale = max(grad.abs().max() for grad in single.values())
    for key, grad in single.items():
        assert (distributed.get(key, torch.zeros(1)) - grad).abs().max() <= 1e-5 * scale, key


def test_batch_norm_over_processes_on_the_cpu(folder: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    expected = net(torch.arange(32.0).reshape(4, 2, 2, 2)).detach()
    found = torch.cat([torch.load(folder / f"norm{rank}.pt") for rank in range(2)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_evaluation_in_two_processes_is_that_of_one(folder: Path, tmp_path: Path) -> None:
    expected = evaluate(str(tmp_path))
    found = torch.load(folder / "evaluated.pt")
    assert found.keys() == expected.keys()
    for task, values in expected.items():
        assert found[task] == pytest.approx(values, rel=0, abs=0, nan_ok=True)  # no object is large
    assert 10 < expected["segm"]["AP"] < 90


def test_places() -> None:
    assert find_place({}) is None
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert find_place(torchrun) == Place(3, 4, 1, 2)
    slurm = {
        "SLURM_JOB_ID": "42",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NODELIST": "alpha,beta",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    }
    environment = dict(slurm)
    assert find_place(environment) == Place(2, 4, 0, 2)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("alpha", "29542")
    assert find_place({key: value for key, value in slurm.items() if key != "SLURM_STEP_ID"}) is None
    with pytest.raises(BadInput, match="same number of tasks"):
        find_place(slurm | {"SLURM_STEP_TASKS_PER_NODE": "2,1"})


def start_torchrun(folder: Path, report: bool) -> subprocess.Popen:
    """Train the thin BlendMask in two processes on the CPU; one restart is allowed."""
    options = {
        "SEED": 1,
        "OUTPUT_DIR": folder,
        "SOLVER.MAX_ITER": 8,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.STEPS": "()",
        "DATALOADER.NUM_WORKERS": 1,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 64,
        "REPORT": report,
    }
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    train = ["-m", "pentamask.tools.train_net", "--config-file", "shapes/BlendMask_R_50_thin.yaml", "--num-gpus", "0"]
    words = [str(word) for item in options.items() for word in item]
    return subprocess.Popen(
        [sys.executable, *launcher, *train, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=folder.with_suffix(".txt").open("w"),
        stderr=subprocess.STDOUT,
    )


def test_torchrun_restarts_and_goes_on_exactly(shapes: str, tmp_path: Path) -> None:
    whole, killed = start_torchrun(tmp_path / "whole", True), start_torchrun(tmp_path / "killed", False)
    while killed.poll() is None and not (tmp_path / "killed" / "model_0000003.pth").exists():
        time.sleep(0.05)
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    for process, name in ((whole, "whole"), (killed, "killed")):
        status, output = process.wait(), (tmp_path / name).with_suffix(".txt").read_text()
        assert status == 0, output[-3000:]
    assert "Starting training from iteration 4" in output or "Starting training from iteration 6" in output
    models = [torch.load(tmp_path / name / "model_final.pth")["model"] for name in ("whole", "killed")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert (tmp_path / "whole" / "report" / "index.html").is_file()
