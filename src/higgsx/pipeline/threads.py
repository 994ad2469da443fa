"""Work on several tensors at once, each on one thread: faster than many threads on small operations."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Pool:
    """Some threads. `workers` is how many."""

    def __init__(self, executor: ThreadPoolExecutor, workers: int, check: Callable[[], None]) -> None:
        self.workers = workers
        self._executor, self._check = executor, check

    def submit(self, work: Callable[..., R], *arguments: Any) -> Future[R]:
        self._check()
        return self._executor.submit(work, *arguments)

    def result(self, future: Future[R]) -> R:
        found = future.result()
        self._check()
        return found

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Results in the order of the items."""
        for future in [self.submit(work, item) for item in items]:
            yield self.result(future)


@contextlib.contextmanager
def one_thread_each() -> Iterator[Pool]:
    """As many workers as torch has threads; torch's operations take one thread each meanwhile."""
    workers = torch.get_num_threads()
    torch.set_num_threads(1)
    executor = ThreadPoolExecutor(workers)
    try:
        with _interrupts_wait() as check:
            try:
                yield Pool(executor, workers, check)
            finally:
                executor.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(workers)


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[Callable[[], None]]:
    """Ctrl-C and the like wait until the function that is yielded is called, or for the end.

    An exception out of a signal may come while the main thread has just taken a lock of the pool, which then
    stays locked: its workers wait for ever, and the program with them.
    """
    handlers: dict[int, Callable[..., Any]] = {}
    waiting: list[tuple[int, Any]] = []

    def check() -> None:
        if waiting:
            number, frame = waiting.pop(0)
            handlers[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, lambda *event: waiting.append(event))
    try:
        yield check
    finally:
        for signal_number, handler in handlers.items():
            signal.signal(signal_number, handler)
    check()
