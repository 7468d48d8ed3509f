"""Starting the processes of a training: by Detectron2's flags, by torchrun, or by Slurm."""

import os
import subprocess
from argparse import Namespace
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from detectron2.engine import create_ddp_model
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import nn

from pentamask.engine.checks import BadInput, check_num_gpus

_SLURM_PORT = 29500


class Place(NamedTuple):
    """Which of the processes that another program started this one is."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def launch(main: Callable[[Namespace], Any], args: Namespace) -> Any:
    """Run `main(args)` in every process.

    Under torchrun or `srun` the processes are there already and only have to find each other; `--num-gpus 0` has them
    work on the CPU. After an elastic restart `args.resume` is set. Otherwise Detectron2's `launch` starts what
    `--num-gpus` and `--num-machines` ask for.

    Args:
        main: of the tool.
        args: of Detectron2's `default_argument_parser`.

    Raises:
        BadInput: there are fewer GPUs than processes.
    """
    place = find_place(os.environ)
    if place is None:
        check_num_gpus(args.num_gpus)
        return detectron2_launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    join(place, use_gpus=args.num_gpus > 0 and torch.cuda.is_available())
    if _restarts() > 0:
        args.resume = True
    try:
        return main(args)
    finally:
        dist.destroy_process_group()


def find_place(environment: dict[str, str] | os._Environ) -> Place | None:
    """This process among those that torchrun or Slurm started; None if it was started alone.

    torchrun's variables are RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, Slurm's begin with SLURM_. Where Slurm
    does not say how the processes meet, MASTER_ADDR and MASTER_PORT are set to the first node.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        defaults = ("0", "1", environment["RANK"], environment["WORLD_SIZE"])
        return Place(*(int(environment.get(name, default)) for name, default in zip(names, defaults)))
    world_size = int(environment.get("SLURM_NTASKS", 1))
    # Within a job, but not started by srun, a process has no step, and is alone.
    if world_size == 1 or "SLURM_PROCID" not in environment or "SLURM_STEP_ID" not in environment:
        return None
    environment.setdefault("MASTER_PORT", str(_SLURM_PORT + int(environment.get("SLURM_JOB_ID", 0)) % 10000))
    if "MASTER_ADDR" not in environment:
        environment["MASTER_ADDR"] = _first_host(environment["SLURM_STEP_NODELIST"])
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", str(world_size))  # as "8", "8(x2)"; nodes must be alike
    per_node = tasks.split("(")[0]
    if not per_node.isdigit():
        raise BadInput(f"SLURM_STEP_TASKS_PER_NODE is {tasks}: start the same number of tasks on every node.")
    return Place(int(environment["SLURM_PROCID"]), world_size, int(environment["SLURM_LOCALID"]), int(per_node))


def _restarts() -> int:
    """How often torchrun has started this training again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _first_host(nodes: str) -> str:
    """The first of Slurm's node names, such as "node[01-04]"."""
    if "[" not in nodes:
        return nodes.split(",")[0]
    listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return listed.stdout.split()[0]


def join(place: Place, *, use_gpus: bool) -> None:
    """Make this process one of a group, as Detectron2's `launch` does it.

    Raises:
        BadInput: there are fewer GPUs than processes on this machine.
    """
    if use_gpus:
        check_num_gpus(place.local_world_size)
        torch.cuda.set_device(place.local_rank)
    store, rank, world_size = next(dist.rendezvous("env://", rank=place.rank, world_size=place.world_size))
    # torchrun keeps its store over restarts: without a prefix processes would find the addresses of dead ones.
    store = dist.PrefixStore(f"attempt_{_restarts()}", store)
    backend = "nccl" if use_gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(place.local_world_size)
    comm.synchronize()


def distribute(model: nn.Module, **options: Any) -> nn.Module:
    """Detectron2's `create_ddp_model`, on the CPU as well, of weights in `torch.channels_last`.

    In that layout a training step of a convolutional model is up to a fifth shorter. On the CPU batch norm over all
    processes is Detectron2's own, because PyTorch's works on GPUs only.

    Args:
        model: on its device.
        options: of `create_ddp_model`.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if comm.get_world_size() > 1 and next(model.parameters()).device.type == "cpu":
        options["device_ids"] = None
        model = _sync_on_cpu(model)
    return create_ddp_model(model, **options)


def _sync_on_cpu(module: nn.Module) -> nn.Module:
    """`module` with each `SyncBatchNorm` replaced by a `NaiveSyncBatchNorm` that has its parameters and statistics."""
    if isinstance(module, nn.SyncBatchNorm):
        norm = NaiveSyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine)
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            setattr(norm, name, tensor)  # the optimizer knows these parameters
        return norm.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _sync_on_cpu(child))
    return module
