"""Bars in the terminal while documents are worked on, also while Dagster has standard error."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from doceval_pipeline.cli.output import errors


class Tell(Protocol):
    """What is told how the work goes on."""

    def __call__(self, done: int, total: int, read_bytes: int = 0) -> None:
        """Take how many things are done, how many there are, and how many bytes were read for them."""


Draw = Callable[[str], Tell]


@contextmanager
def bars(visible: bool) -> Iterator[Draw]:
    """Something that draws a bar for each kind of work; what is left of them at the end is removed.

    Parameters
    ----------
    visible
        Draw them, if standard error is a terminal.
    """
    if not visible or not errors.is_terminal:
        yield lambda what: _say_nothing
        return
    # A copy, because Dagster sends what a run writes to standard error into a file.
    with ExitStack() as drawn:
        copy = os.dup(sys.stderr.fileno())
        terminal = drawn.enter_context(os.fdopen(copy, "w", encoding=sys.stderr.encoding, errors="replace"))
        console = Console(file=terminal, force_terminal=True)
        yield lambda what: _draw(what, console, drawn)


def _draw(what: str, console: Console, drawn: ExitStack) -> Tell:
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("", total=0, speed="")
    drawn.callback(bar.stop)
    started = time.monotonic()

    def tell(done: int, total: int, read_bytes: int = 0) -> None:
        seconds = time.monotonic() - started
        speed = f"{read_bytes / seconds / 1e6:,.1f} MB/s" if read_bytes and seconds else ""
        bar.update(task, completed=done, total=total, speed=speed)
        bar.start()
        if done == total:
            bar.stop()

    return tell


def _say_nothing(done: int, total: int, read_bytes: int = 0) -> None:
    """Progress that nobody watches."""
