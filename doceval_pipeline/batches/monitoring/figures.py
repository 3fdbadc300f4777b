"""Reads the figures of both databases for monitoring, each within a time limit.

Counting by connection reads all rows of open batches. So that a page that is asked for every few seconds
takes little of the server, the last count is repeated until 20 times the time that it took has passed.
"""

import time
from dataclasses import dataclass, field

from doceval_pipeline.batches.databases import DOC_EVAL, KNOWLEDGE, observed
from doceval_pipeline.doc_eval.batch_figures import batch_figures
from doceval_pipeline.domain.metrics import BatchFigures, OpenFigures, QueueFigures
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.knowledge.queue_figures import open_figures, queue_figures
from doceval_pipeline.settings import Settings

SECONDS = 2.0
SECONDS_TO_COUNT = 4.0
# The most of a connection's time that counting takes, as one part of this many.
REST = 20


def read_batch_figures(settings: Settings) -> BatchFigures:
    """The figures of the configuration database; raises as `observed`."""
    with observed(settings, DOC_EVAL, SECONDS) as connection:
        return batch_figures(connection)


def read_queue_figures(settings: Settings) -> QueueFigures:
    """The figures of the queue that need no scan; raises as `observed`."""
    with observed(settings, KNOWLEDGE, SECONDS) as connection:
        return queue_figures(connection)


@dataclass
class OpenCounts:
    """The counts of open batches, taken anew only so often; not thread-safe."""

    _last: OpenFigures | None = field(default=None, init=False)
    _next: float = field(default=float("-inf"), init=False)

    def read(self, settings: Settings) -> OpenFigures | None:
        """The counts; None if counting takes longer than `SECONDS_TO_COUNT`."""
        began = time.monotonic()
        if began < self._next:
            return self._last
        try:
            with observed(settings, KNOWLEDGE, SECONDS_TO_COUNT) as connection:
                self._last = open_figures(connection)
        except DatabaseError:
            self._last = None
        ended = time.monotonic()
        self._next = ended + REST * (ended - began)
        return self._last
