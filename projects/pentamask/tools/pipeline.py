"""Steps of a stream that run beside each other."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")
_END = object()


def ahead(items: Iterable[_T], size: int = 4) -> Iterator[_T]:
    """The items, taken by a thread that is up to `size` of them ahead; its errors are raised here.

    Whoever stops early stops the thread, too.
    """
    waiting: queue.Queue = queue.Queue(size)
    stopped = threading.Event()

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue

    def take() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(_END)
        except BaseException as error:  # whatever it is, it belongs to whoever waits for the items
            put(error)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def behind(step: Callable[[_T], _R], items: Iterable[_T], size: int = 4) -> Generator[_R, None, None]:
    """What `step` makes of the items, in order, in a thread that is up to `size` of them behind; they are taken here.

    So a model stays in the thread that it was built in; in another one, OpenMP has more threads than there are cores
    and lets them sleep between any two loops. Errors of `step` are raised here.
    """
    with ThreadPoolExecutor(1) as thread:
        running: deque[Future[_R]] = deque()
        for item in items:
            running.append(thread.submit(step, item))
            while running and (len(running) > size or running[0].done()):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
