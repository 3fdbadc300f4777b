"""Bars in the terminal while documents are worked on, also while Dagster has standard error."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from doceval_pipeline.batches.storing import Progress as Tell
from doceval_pipeline.cli.output import errors

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
    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as terminal, ExitStack() as drawn:
        console = Console(file=terminal, force_terminal=True)
        yield lambda what: _draw(what, console, drawn)


def _draw(what: str, console: Console, drawn: ExitStack) -> Tell:
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    task = bar.add_task("", total=0)
    drawn.callback(bar.stop)

    def tell(done: int, total: int, read_bytes: int) -> None:
        bar.update(task, completed=done, total=total)
        bar.start()
        if done == total:
            bar.stop()

    return tell


def _say_nothing(done: int, total: int, read_bytes: int) -> None:
    """Progress that nobody watches."""
