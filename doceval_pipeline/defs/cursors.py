"""Cursors: the state that sensors keep between ticks. An edited or lost cursor counts as an empty one.

Dagster stores cursors, so the names of their fields must not change.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from doceval_pipeline.batches.monitoring.stalls import WorkState

BatchId = Annotated[int, Field(ge=1, le=2**31 - 1)]
Version = Annotated[int, Field(ge=0, le=2**63 - 1)]
Word = Annotated[str, Field(max_length=200)]


class Cursor(BaseModel):
    """A cursor as JSON; an empty cursor has the default of every field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @classmethod
    def read(cls, text: str | None) -> Self:
        """The cursor in `text`; an empty one where `text` cannot be parsed."""
        try:
            return cls.model_validate_json(text or "{}")
        except ValueError:
            return cls()

    def write(self) -> str:
        """The cursor as text."""
        return self.model_dump_json()


class NewBatchesCursor(Cursor):
    """Cursor of `new_batches`: the batch up to which partitions were compared."""

    compared: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class ResponseStatusCursor(Cursor):
    """Cursor of `response_status`: the versions of its last poll, and the recorded results by batch.

    Closed batches are rechecked from `seen` on, and changes of open batches recorded from `observed` on.
    """

    seen: Version = 0
    observed: Version = 0
    told: dict[BatchId, Word] = {}


class RecurringCursor(Cursor):
    """Cursor of `recurring_evaluations`: when each checks for arrivals next, in seconds since 1970."""

    next_looks: dict[BatchId, Annotated[float, Field(ge=0, le=1e11)]] = {}


class SeriesCursor(Cursor):
    """Cursor of `fresh_series`: the state for which the page of each recurring evaluation was requested.

    `compared` is the last recurring evaluation of the previous tick.
    """

    written: dict[BatchId, Word] = {}
    compared: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class StalledWorkCursor(Cursor):
    """Cursor of `stalled_work`: the newest state of each open batch and of each missing report."""

    movements: dict[BatchId, WorkState] = {}
    unreported: dict[BatchId, Word] = {}
