"""Does something in a process of its own, to which a fault happens at a chosen point or at any moment.

A point is before and after each statement, before each commit and after it, before each piece of a
document that is copied, and before and after each step on the disk: product code knows nothing of them.
"""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.migrations import copying

Fault = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a process ended: by a kill, with a line for people, or with what was asked done."""

    killed: bool
    error: str | None
    points: int

    @property
    def done(self) -> bool:
        """Whether it said that everything was done."""
        return not self.killed and self.error is None


class Points:
    """Counts the points that this process passes, and lets a fault happen at one of them."""

    def __init__(self, chosen: int, fault: Fault) -> None:
        self._numbers = count(1)
        self._chosen = chosen
        self._fault = fault
        self._process = os.getpid()
        self.passed = 0

    def reached(self, *_: object, **__: object) -> None:
        # Two threads store documents; taking a number is one step of the interpreter.
        self.passed = next(self._numbers)
        # What this process starts is left alone.
        if self.passed == self._chosen and os.getpid() == self._process:
            self._fault()

    def watch(self) -> None:
        """Watch every engine, the copying of documents, and the disk, for the rest of this process."""
        for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
            event.listen(Engine, name, self.reached)
        event.listen(Pool, "checkin", self.reached)
        stream = copying._Stream
        stream.read = self._around(stream.read)  # type: ignore[method-assign]
        for name in ("fsync", "replace"):
            setattr(os, name, self._around(getattr(os, name)))

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            self.reached()
            result = call(*arguments, **options)
            self.reached()
            return result

        return watched


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """A process that was forked off this one and does one thing.

    Parameters
    ----------
    at, fault
        What happens to it, and at which of its points; 0 for at none.
    """

    def __init__(
        self, databases: Databases, act: Callable[[], object], at: int = 0, fault: Fault = kill_this_process
    ) -> None:
        self._answer, answering = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _live(databases, act, at, fault, answering)
        os.close(answering)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> Ended:
        """Wait for its end, and that of what it started. What is no line for people fails the test."""
        with os.fdopen(self._answer) as pipe:
            answer = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return Ended(True, None, 0)
        assert os.WEXITSTATUS(status) == 0, f"no line, but a traceback: {answer}"
        return Ended(False, **json.loads(answer))


def _live(databases: Databases, act: Callable[[], object], at: int, fault: Fault, answering: int) -> None:
    """All that the child does; nothing of its parent may end in it, neither connections nor tests."""
    ended, answer = 1, "it did not begin"
    try:
        for engine in (databases.doc_eval, databases.knowledge):
            engine.dispose(close=False)
        points = Points(at, fault)
        points.watch()
        error = None
        try:
            act()
        except DocEvalError as told:
            error = str(told)
        answer, ended = json.dumps({"error": error, "points": points.passed}), 0
    except BaseException as unexpected:
        answer = repr(unexpected)
        raise
    finally:
        os.write(answering, answer.encode())
        os._exit(ended)
