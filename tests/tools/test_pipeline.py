"""`ahead` and `behind` keep order, run beside their consumer, pass errors on, and stop with it."""

import threading
import time

import pytest

from pentamask.tools.pipeline import ahead, behind


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


def test_a_step_behind_runs_in_another_thread_in_order():
    here = threading.get_ident()
    taken: list[int] = []

    def items():
        for i in range(20):
            taken.append(threading.get_ident())
            yield i

    def step(i):
        time.sleep(0.001 * (i % 3))
        return i, threading.get_ident()

    made = list(behind(step, items(), size=2))
    assert [i for i, _ in made] == list(range(20))
    assert set(taken) == {here} and here not in {thread for _, thread in made}


def test_errors_of_a_step_behind_are_raised_and_no_thread_is_left():
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(behind(lambda i: 1 // (3 - i), iter(range(10))))
    results = behind(str, iter(int, 1))  # endless
    assert next(results) == "0"
    results.close()
    assert threading.active_count() == before
