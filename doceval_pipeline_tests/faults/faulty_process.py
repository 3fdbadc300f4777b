"""Runs an operation in a separate process, with a fault at a chosen point or at any moment.

Points are before and after each statement and commit, before each piece of a copied document, and before and
after each disk operation. Product code is unaware of them.
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
class ProcessEnd:
    """How a process ended: killed, with an error message, or successfully."""

    killed: bool
    error: str | None
    points: int

    @property
    def done(self) -> bool:
        """Whether the process reported success."""
        return not self.killed and self.error is None


class Points:
    """Counts the points that this process passes, and triggers a fault at one of them."""

    def __init__(self, chosen: int, fault: Fault) -> None:
        self._numbers = count(1)
        self._chosen = chosen
        self._fault = fault
        self._process = os.getpid()
        self.passed = 0

    def reached(self, *_: object, **__: object) -> None:
        # Two threads store documents; next() is atomic.
        self.passed = next(self._numbers)
        # Child processes are not affected.
        if self.passed == self._chosen and os.getpid() == self._process:
            self._fault()

    def watch(self) -> None:
        """Watches engines, copied documents and disk operations for the rest of this process."""
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


class FaultyProcess:
    """A forked process that runs one operation.

    Parameters
    ----------
    at, fault
        The fault, and the point at which it happens; 0 for none.
    """

    def __init__(
        self,
        databases: Databases,
        operation: Callable[[], object],
        at: int = 0,
        fault: Fault = kill_this_process,
    ) -> None:
        self._answer, answering = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _live(databases, operation, at, fault, answering)
        os.close(answering)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> ProcessEnd:
        """Waits for it and its children to end. Any error other than a DocEvalError fails the test."""
        with os.fdopen(self._answer) as pipe:
            answer = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return ProcessEnd(True, None, 0)
        assert os.WEXITSTATUS(status) == 0, f"a traceback instead of an error: {answer}"
        return ProcessEnd(False, **json.loads(answer))


def _live(
    databases: Databases, operation: Callable[[], object], at: int, fault: Fault, answering: int
) -> None:
    """The body of the child, which must end neither connections nor tests of its parent."""
    ended, answer = 1, "it did not start"
    try:
        for engine in (databases.doc_eval, databases.knowledge):
            engine.dispose(close=False)
        points = Points(at, fault)
        points.watch()
        error = None
        try:
            operation()
        except DocEvalError as raised:
            error = str(raised)
        answer, ended = json.dumps({"error": error, "points": points.passed}), 0
    except BaseException as unexpected:
        answer = repr(unexpected)
        raise
    finally:
        os.write(answering, answer.encode())
        os._exit(ended)
