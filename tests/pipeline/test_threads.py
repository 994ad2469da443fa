from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from higgsx.pipeline.threads import one_thread_each


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C raises, whatever the shell that started the tests says."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_results_in_order_and_threads_as_before() -> None:
    threads = torch.get_num_threads()
    with one_thread_each() as pool:
        assert pool.workers == threads
        assert list(pool.map(lambda n: (n, torch.get_num_threads()), range(50))) == [
            (n, 1) for n in range(50)
        ]
    assert torch.get_num_threads() == threads


def test_an_interrupt_comes_between_two_pieces_of_work(heard: None) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), one_thread_each() as pool:
        future = pool.submit(done.append, 1)
        os.kill(os.getpid(), signal.SIGINT)
        done.append(2)  # not here
        pool.result(future)
        done.append(3)
    assert sorted(done) == [1, 2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_after_the_last_piece_is_not_lost(heard: None) -> None:
    with pytest.raises(KeyboardInterrupt), one_thread_each():
        os.kill(os.getpid(), signal.SIGINT)


def test_an_error_of_the_work_comes_through() -> None:
    with pytest.raises(ZeroDivisionError), one_thread_each() as pool:
        list(pool.map(lambda n: 1 // n, [1, 0, 1]))
