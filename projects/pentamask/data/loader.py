"""A training loader that gives the same batches whenever it is started, and can start at any batch."""

import itertools
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

# What samplers of Detectron2 draw from; another process would draw other numbers.
_SAMPLER_STATE = ("_seed", "_seed_shuffle", "_seed_subset", "_indexes_subset")
_MAX_ATTEMPTS = 1000


def seed_everything(*numbers: int) -> None:
    """Seed torch on all devices, numpy and Python's random with a mixture of `numbers`, each not negative."""
    _seed(numbers, torch.manual_seed)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within, as `seed_everything`, on the CPU only; afterwards the generators continue as before."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        _seed(numbers, torch.default_generator.manual_seed)
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _seed(numbers: tuple[int, ...], seed_torch: Callable[[int], Any]) -> None:
    seeds = np.random.SeedSequence(numbers).generate_state(3).tolist()
    seed_torch(seeds[0])
    np.random.seed(seeds[1])
    random.seed(seeds[2])


class SeededMapDataset(Dataset):
    """A dataset and its mapper; what is random in a sample depends on its seed alone, not on the worker it is made in.

    A mapper may return None for a sample it cannot use, as Detectron2's `MapDataset` allows: another one is drawn.
    """

    def __init__(self, dataset: Any, mapper: Callable[[dict], dict | None] | None) -> None:
        """
        Args:
            dataset: map-style.
            mapper: from an element of `dataset` to a training sample; None takes the elements as they are.
        """
        self.dataset, self.mapper = dataset, mapper

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, tuple[int, ...]]) -> Any:
        """
        Args:
            key: index of the element, and the numbers that seed it.

        Raises:
            RuntimeError: the mapper rejects one sample after another.
        """
        index, seed = key
        with seeded(*seed):
            for _ in range(_MAX_ATTEMPTS):
                sample = self.dataset[index] if self.mapper is None else self.mapper(self.dataset[index])
                if sample is not None:
                    return sample
                index = random.randrange(len(self.dataset))
        raise RuntimeError(
            f"The mapper rejected {_MAX_ATTEMPTS} images in a row: no image has an object to learn from."
        )


class ResumableLoader:
    """Batches of a training set without end, as Detectron2's training loader gives them, which can start at any batch.

    The order of the images, their grouping into batches and their augmentation follow from the sampler, `seed`, the
    rank of the process and the number of a sample, with any number of workers.
    """

    def __init__(
        self,
        samples: SeededMapDataset,
        sampler: Sampler,
        batch_size: int,
        is_wide: np.ndarray | None = None,
        **data_loader_options: Any,
    ) -> None:
        """
        Args:
            samples: what the sampler's indices stand for.
            sampler: without end; of this process.
            batch_size: of this process.
            is_wide: (len(samples),) bool, images of which kind are not mixed in a batch; None mixes all.
            data_loader_options: of torch's `DataLoader`.
        """
        self.samples, self.sampler, self.batch_size, self.is_wide = samples, sampler, batch_size, is_wide
        self.seed = comm.shared_random_seed()
        self.start_batch = 0
        self.data_loader_options = data_loader_options

    def state_dict(self) -> dict[str, Any]:
        """What another process needs to give the same batches."""
        sampler = {name: value for name, value in vars(self.sampler).items() if name in _SAMPLER_STATE}
        return {"seed": self.seed, "sampler": sampler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the loader did whose `state_dict` this is."""
        self.seed = state["seed"]
        vars(self.sampler).update(state["sampler"])

    def _batches(self) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        """Index and seed of the samples of each batch, as AspectRatioGroupedDataset of Detectron2 groups them."""
        rank = comm.get_rank()
        buckets: tuple[list, list] = ([], [])
        for number, index in enumerate(self.sampler):
            bucket = buckets[0 if self.is_wide is None else int(self.is_wide[index])]
            bucket.append((index, (self.seed, rank, number)))
            if len(bucket) == self.batch_size:
                yield list(bucket)
                bucket.clear()

    def first_batch(self) -> list[Any]:
        """The samples of the very first batch, made in this process."""
        return [self.samples[key] for key in next(self._batches())]

    def __iter__(self) -> Iterator[list[Any]]:
        batches = itertools.islice(self._batches(), self.start_batch, None)
        # A generator of its own, because DataLoader draws from it when it starts.
        options = {"generator": torch.Generator(), **self.data_loader_options}
        return iter(DataLoader(self.samples, batch_sampler=batches, **options))


@configurable(from_config=build_detection_train_loader.from_config)
def build_train_loader(
    dataset: Any,
    *,
    mapper: Callable[[dict], dict | None] | None,
    sampler: Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **data_loader_options: Any,
) -> Any:
    """Detectron2's `build_detection_train_loader`, with its arguments, as a `ResumableLoader`.

    Raises:
        ValueError: the batch cannot be shared out equally among the processes.
    """
    if isinstance(dataset, IterableDataset):
        logging.getLogger(__name__).info("The training set is iterable: a resumed training starts it anew.")
        return build_detection_train_loader(
            dataset,
            mapper=mapper,
            sampler=sampler,
            total_batch_size=total_batch_size,
            aspect_ratio_grouping=aspect_ratio_grouping,
            num_workers=num_workers,
            collate_fn=collate_fn,
            **data_loader_options,
        )
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH (LazyConfig: dataloader.train.total_batch_size) is {total_batch_size}; it must be a "
            f"multiple of the number of processes, {world_size}."
        )
    is_wide = None
    if aspect_ratio_grouping:
        is_wide = np.array([x.get("width", 0) > x.get("height", 0) for x in dataset], dtype=bool)
    records = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    return ResumableLoader(
        SeededMapDataset(records, mapper),
        TrainingSampler(len(records)) if sampler is None else sampler,
        total_batch_size // world_size,
        is_wide,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
        **data_loader_options,
    )
