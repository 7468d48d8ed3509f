"""Training batches depend on seeds and numbers only: not on workers, and not on where the training was stopped."""

import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import TrainingSampler

from pentamask.data.loader import ResumableLoader, SeededMapDataset, build_train_loader, seed_everything, seeded


def records(count: int = 10) -> list[dict]:
    return [{"id": i, "width": 2 if i % 3 else 1, "height": 1.5} for i in range(count)]


def draw(record: dict) -> dict:
    return record | {"numpy": np.random.rand(), "torch": torch.rand(()).item(), "python": random.random()}


def make_loader(num_workers: int = 0, **options) -> ResumableLoader:
    options = {"mapper": draw, "total_batch_size": 2} | options
    return build_train_loader(records(), num_workers=num_workers, **options)


def first(loader: ResumableLoader, count: int) -> list[list[dict]]:
    return list(itertools.islice(loader, count))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_that_starts_later_gives_the_rest(num_workers: int) -> None:
    loader = make_loader()
    whole = first(loader, 12)
    later = make_loader(num_workers)
    later.load_state_dict(loader.state_dict())
    later.start_batch = 5
    assert first(later, 7) == whole[5:]
    assert first(make_loader(), 12) != whole  # another seed


def test_images_and_random_numbers_of_samples() -> None:
    batches = first(make_loader(), 30)
    assert all(len({x["width"] > x["height"] for x in batch}) == 1 for batch in batches)
    samples = [x for batch in batches for x in batch]
    assert {x["id"] for x in samples} == set(range(10))
    assert len({x["numpy"] for x in samples}) == len({x["torch"] for x in samples}) == 60


def test_the_order_is_the_samplers() -> None:
    sampler = TrainingSampler(10, seed=3)
    loader = make_loader(sampler=sampler, aspect_ratio_grouping=False)
    assert [x["id"] for batch in first(loader, 5) for x in batch] == list(itertools.islice(sampler, 10))


def test_a_rejected_sample_is_replaced_the_same_way_each_time() -> None:
    def only_odd(record: dict) -> dict | None:
        return draw(record) if record["id"] % 2 else None

    samples = SeededMapDataset(DatasetFromList(records()), only_odd)
    assert samples[4, (1, 2)]["id"] % 2 == 1 and samples[4, (1, 2)] == samples[4, (1, 2)]
    assert len({samples[4, (1, n)]["id"] for n in range(20)}) > 2
    with pytest.raises(RuntimeError, match="rejected 1000 images"):
        SeededMapDataset(DatasetFromList(records()), lambda record: None)[0, (1,)]


def test_making_samples_leaves_the_generators_of_the_process_alone() -> None:
    loader = make_loader()
    seed_everything(7)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    seed_everything(7)
    first(loader, 3)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    seed_everything(7)
    with seeded(1, 2):
        assert torch.rand(1).item() != expected[0]
    assert torch.rand(1).item() == expected[0]


def test_bad_batch_size() -> None:
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH .* is 0"):
        make_loader(total_batch_size=0)
