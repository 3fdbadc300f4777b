"""Portions: nothing is lost or doubled, and at most so many are processed or in memory as was asked for."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.portions import in_parallel, in_portions


@given(st.lists(st.integers()), st.integers(1, 20))
def test_portions_have_every_item_once_in_order(items: list[int], size: int) -> None:
    portions = list(in_portions(iter(items), size))
    assert [item for portion in portions for item in portion] == items
    assert all(len(portion) == size for portion in portions[:-1])
    assert all(portions)


def test_one_worker_is_one_other_thread_that_works_in_order() -> None:
    done: list[int] = []
    threads, busy = set(), threading.Lock()

    def work(portion: int) -> None:
        assert busy.acquire(blocking=False)
        # Without a pause, work that may overlap would seldom do so.
        time.sleep(0.001)
        done.append(portion)
        threads.add(threading.get_ident())
        busy.release()

    assert list(in_parallel(work, range(20), 1)) == [None] * 20
    assert done == list(range(20))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_next_portion_is_prepared_while_all_workers_work(workers: int) -> None:
    prepared = threading.Event()

    def portions() -> Iterator[int]:
        yield from range(workers)
        prepared.set()
        yield workers

    def work(portion: int) -> int:
        assert prepared.wait(30)
        return portion

    assert list(in_parallel(work, portions(), workers)) == list(range(workers + 1))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_are_in_order_and_no_portion_is_prepared_before_one_is_done(workers: int) -> None:
    prepared, done = 0, 0

    def portions() -> Iterator[int]:
        nonlocal prepared
        for portion in range(30):
            prepared += 1
            assert prepared - done <= workers + 1
            yield portion

    for done, portion in enumerate(in_parallel(lambda portion: portion, portions(), workers), 1):
        assert portion == done - 1
    assert done == 30


def test_a_failure_of_the_work_ends_it() -> None:
    done = []

    def work(portion: int) -> None:
        done.append(portion)
        raise ValueError(portion)

    with pytest.raises(ValueError, match="0"):
        list(in_parallel(work, range(20), 1))
    # The one that was prepared may have begun.
    assert done in ([0], [0, 1])


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
        list(in_parallel(work, portions(), 1))
    assert finished.is_set()
