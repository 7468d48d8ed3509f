"""Steps of a stream that run beside each other."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")
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
