"""`ahead` keeps order, runs beside its consumer, passes errors on, and stops with its consumer."""

import threading
import time

import pytest

from pentamask.tools.pipeline import ahead


def test_order_and_errors():
    assert list(ahead(range(100), size=2)) == list(range(100))

    def failing():
        yield 1
        raise OSError("broken")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(OSError, match="broken"):
        next(items)


def test_both_sides_work_at_once():
    def slow():
        for i in range(5):
            time.sleep(0.02)
            yield i

    start = time.perf_counter()
    for _ in ahead(slow()):
        time.sleep(0.02)
    assert time.perf_counter() - start < 0.18  # 0.2 one after the other


def test_ends_with_its_consumer():
    before = threading.active_count()
    items = ahead(iter(int, 1))  # endless
    next(items)
    items.close()
    assert threading.active_count() == before
