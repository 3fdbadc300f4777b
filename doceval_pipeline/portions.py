"""Processes long lists in portions, so that memory is bounded however long they are."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Portion = TypeVar("_Portion")


def in_portions(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of `size` items in their order; the last one has the rest."""
    remaining = iter(items)
    while portion := list(islice(remaining, size)):
        yield portion


def overlap(work: Callable[[_Portion], object], portions: Iterable[_Portion]) -> None:
    """Call `work` for each portion, in order, in another thread; meanwhile the next portion is prepared.

    Two calls never overlap, and none is running when this function returns or raises. It raises what
    `work` or `portions` raised.
    """
    running: Future[object] | None = None
    with ThreadPoolExecutor(1) as thread:
        for portion in portions:
            if running is not None:
                running.result()
            running = thread.submit(work, portion)
        if running is not None:
            running.result()
