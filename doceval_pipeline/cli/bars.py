"""Progress bars in the terminal, also while Dagster captures standard error."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from doceval_pipeline.cli.output import WIDEST_TERMINAL, errors
from doceval_pipeline.cli.streams import LastingStream, text_on


class ProgressUpdate(Protocol):
    """Receives the progress of one kind of work."""

    def __call__(self, done: int, total: int | None, read_bytes: int = 0) -> None:
        """Take the number of finished items, of all items if it is known, and the bytes read so far."""


NewBar = Callable[[str], ProgressUpdate]


class ProgressBars(Progress):
    """A line for each task; in a narrow terminal, a bar above the words. Nothing is cut."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The current lines."""
        if not self.tasks:
            # The constructor of rich's class calls this too, before there is a console.
            return
        table = self.make_tasks_table(self.tasks)
        unlimited = self.console.options.update(max_width=WIDEST_TERMINAL)
        if self.console.measure(table, options=unlimited).maximum <= self.console.width:
            yield table
        else:
            for task in self.tasks:
                if task.visible:
                    yield from self._stacked(task)
        if hidden := sum(not task.visible for task in self.tasks):
            yield Text(f"and {hidden:,} more")

    def _stacked(self, task: Task) -> Iterator[RenderableType]:
        words = []
        for column in self.columns:
            drawn = Text(column) if isinstance(column, str) else column(task)
            if isinstance(drawn, ProgressBar):
                drawn.width = min(drawn.width or self.console.width, self.console.width)
                # Ends the line, which a bar alone does not.
                yield Padding(drawn, expand=False)
            elif isinstance(drawn, Text) and drawn.plain.strip():
                words.append(drawn)
        # Our consoles do not wrap lines on their own.
        yield Text(" ", overflow="fold", no_wrap=False).join(words)


@contextmanager
def bars(*, visible: bool) -> Iterator[NewBar]:
    """A function that draws a bar for one kind of work; the bars are removed at the end.

    Parameters
    ----------
    visible
        Draw them if standard error is a terminal.
    """
    if not visible or not errors.is_terminal:
        yield lambda what: _ignore_progress
        return
    # A copy, because Dagster redirects standard error of a run into a file.
    number = os.dup(sys.stderr.fileno())
    with ExitStack() as exits:
        exits.callback(os.close, number)
        terminal = text_on(LastingStream(number), like=sys.stderr)
        console = Console(file=terminal, force_terminal=True, width=errors.width)
        yield lambda what: _draw(what, console, exits)


def _draw(what: str, console: Console, exits: ExitStack) -> ProgressUpdate:
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    bar = ProgressBars(*columns, console=console, transient=True)
    task = bar.add_task("", total=None, count="", speed="")
    exits.callback(bar.stop)
    started = time.monotonic()

    def update(done: int, total: int | None, read_bytes: int = 0) -> None:
        seconds = time.monotonic() - started
        speed = f"{read_bytes / seconds / 1e6:,.1f} MB/s" if read_bytes and seconds else ""
        count = f"{done:,} so far" if total is None else f"{done:,} of {total:,}"
        bar.update(task, completed=done, total=total, count=count, speed=speed)
        bar.start()
        if done == total:
            bar.stop()

    return update


def _ignore_progress(done: int, total: int | None, read_bytes: int = 0) -> None:
    """Used if no bar is drawn."""
