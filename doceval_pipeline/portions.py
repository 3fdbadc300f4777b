"""Processes long lists in portions, so that memory is bounded however long they are."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Portion = TypeVar("_Portion")
_Result = TypeVar("_Result")

Progress = Callable[[int, int | None, int], None]
"""Receives how many items are done, of how many (None while that is unknown), and the bytes read so far."""


def ignore_progress(done: int, total: int | None, read_bytes: int) -> None:
    """Discard the progress."""


def in_portions(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of `size` items in their order; the last one has the rest."""
    remaining = iter(items)
    while portion := list(islice(remaining, size)):
        yield portion


def in_parallel(
    work: Callable[[_Portion], _Result], portions: Iterable[_Portion], workers: int
) -> Iterator[_Result]:
    """Call `work` for each portion in other threads, and yield the results in order of the portions.

    Meanwhile the next portion is prepared: `workers` + 1 are in memory. Raises what `work` or `portions`
    raised; a portion that was prepared already may be processed after a failure. No work is running when the
    iterator ends, raises or is closed.
    """
    with ThreadPoolExecutor(workers) as pool:
        started: deque[Future[_Result]] = deque()
        try:
            for portion in portions:
                started.append(pool.submit(work, portion))
                if len(started) > workers:
                    yield started.popleft().result()
            while started:
                yield started.popleft().result()
        finally:
            for waiting in started:
                waiting.cancel()
