"""A bar on standard error while a command works; silent where it would be in the way."""

import time
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from doceval_pipeline.cli.output import errors


class Bar:
    """A bar over things that are counted; shown from the first telling to the last, or as a context."""

    def __init__(self, description: str, visible: bool) -> None:
        self._bar = Progress(
            TextColumn(description),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
            disable=not visible or not errors.is_terminal,
        )
        self._task = self._bar.add_task("", total=0, speed="")
        self._started = time.monotonic()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def tell(self, done: int, total: int, read_bytes: int | None = None) -> None:
        """Tell how many of how many are done, and how many bytes were read for it."""
        if not done:
            self._started = time.monotonic()
        self._bar.start()
        speed = "" if not read_bytes else f"{read_bytes / 1e6 / (time.monotonic() - self._started):,.1f} MB/s"
        self._bar.update(self._task, completed=done, total=total, speed=speed)
        if done == total:
            self._bar.stop()
