"""Bars in the terminal while documents are worked on, also while Dagster has standard error."""

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


class Tell(Protocol):
    """What is told how the work goes on."""

    def __call__(self, done: int, total: int, read_bytes: int = 0) -> None:
        """Take how many things are done, how many there are, and how many bytes were read for them."""


Draw = Callable[[str], Tell]


class Bars(Progress):
    """A line for each task; where the terminal is too narrow, a bar above the words. Nothing is cut."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """What is drawn now."""
        if not self.tasks:
            # Also asked by the constructor of rich's class, which has no console then.
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
                # A line of its own, which a bar alone does not end.
                yield Padding(drawn, expand=False)
            elif isinstance(drawn, Text) and drawn.plain.strip():
                words.append(drawn)
        # Our consoles wrap nothing by themselves.
        yield Text(" ", overflow="fold", no_wrap=False).join(words)


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
    number = os.dup(sys.stderr.fileno())
    with ExitStack() as drawn:
        drawn.callback(os.close, number)
        terminal = text_on(LastingStream(number), like=sys.stderr)
        console = Console(file=terminal, force_terminal=True, width=errors.width)
        yield lambda what: _draw(what, console, drawn)


def _draw(what: str, console: Console, drawn: ExitStack) -> Tell:
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    bar = Bars(*columns, console=console, transient=True)
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
