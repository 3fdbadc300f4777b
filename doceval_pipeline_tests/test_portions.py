"""Portions: nothing is lost or doubled, and work on one never overlaps with work on the next."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.portions import in_portions, overlap


@given(st.lists(st.integers()), st.integers(1, 20))
def test_portions_have_every_item_once_in_order(items: list[int], size: int) -> None:
    portions = list(in_portions(iter(items), size))
    assert [item for portion in portions for item in portion] == items
    assert all(len(portion) == size for portion in portions[:-1])
    assert all(portions)


def test_work_is_done_in_order_in_one_other_thread_and_never_twice_at_once() -> None:
    done: list[int] = []
    threads, busy = set(), threading.Lock()

    def work(portion: int) -> None:
        assert busy.acquire(blocking=False)
        # Without a pause, work that may overlap would seldom do so.
        time.sleep(0.001)
        done.append(portion)
        threads.add(threading.get_ident())
        busy.release()

    overlap(work, range(20))
    assert done == list(range(20))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_the_next_portion_is_prepared_while_work_is_done() -> None:
    prepared = threading.Event()

    def portions() -> Iterator[int]:
        yield 1
        prepared.set()
        yield 2

    def work(portion: int) -> None:
        assert prepared.wait(30)

    overlap(work, portions())


def test_a_failure_of_the_work_ends_it() -> None:
    done = []

    def work(portion: int) -> None:
        done.append(portion)
        raise ValueError(portion)

    with pytest.raises(ValueError, match="0"):
        overlap(work, range(20))
    assert done == [0]


def test_no_work_is_running_when_a_failure_of_the_portions_is_raised() -> None:
    begun, finished = threading.Event(), threading.Event()

    def portions() -> Iterator[int]:
        yield 1
        assert begun.wait(30)
        raise KeyError

    def work(portion: int) -> None:
        begun.set()
        # The failure arrives meanwhile.
        time.sleep(0.05)
        finished.set()

    with pytest.raises(KeyError):
        overlap(work, portions())
    assert finished.is_set()
