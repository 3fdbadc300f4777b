"""The record of a recurring evaluation, and when its next batch is due."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from doceval_pipeline.domain.recurring import Occurrence, OccurrenceOutcome
from doceval_pipeline.errors import RecurringError
from doceval_pipeline.recurrence import Recurrence

if TYPE_CHECKING:
    from doceval_pipeline.doc_eval.definitions.schema import RecurringDefinition

# A batch of arrivals is made after this many times `quiet_for`, even if more files keep arriving.
MOST_WAITS = 10


@dataclass(frozen=True)
class RecurringRecord:
    """A recurring evaluation with its newest occurrence; times are UTC-aware."""

    id: int
    name: str
    definition: "RecurringDefinition"
    watched_from: datetime
    """Since when its schedule counts; earlier times are not made up."""
    paused_at: datetime | None
    known_digest: str | None
    """Digest of all files when none of them was new."""
    seen_digest: str | None
    """Digest of all files when the latest arrivals were found."""
    waiting_from: datetime | None
    """Since when arrivals wait to become a batch."""
    changed_at: datetime | None
    """When the latest of them arrived."""
    now: datetime
    """The server's time of this record."""
    newest_due_at: datetime | None
    newest_outcome: OccurrenceOutcome | None
    newest_reason: str | None
    newest_batch_id: int | None
    newest_batch_status: str | None
    held_reason: str | None
    """Why the newest batch is held; None if it is not."""
    scheduled_at: datetime | None = None
    """The newest recorded time of the schedule that is not in the future."""
    was_set_back: bool = False
    """Whether the clock was set back after a time was recorded; `restart_from_now` ends that."""
    problem: str | None = None
    """Why the stored definition cannot be used; `definition` is then a stand-in that is never due."""

    @property
    def recurrence(self) -> Recurrence | None:
        """Its schedule; None if it makes batches when documents arrive."""
        if self.definition.schedule is None:
            return None
        return Recurrence(self.definition.schedule, self.definition.timezone)

    @property
    def failure(self) -> str | None:
        """Why no batch is made, in one line; None if the newest occurrence did not fail."""
        if self.problem is not None:
            return f"{self.name}: its definition cannot be used: {self.problem}"
        if self.newest_outcome is not OccurrenceOutcome.FAILED:
            return None
        return f"{self.name}: no batch of {self.newest_due_at:%Y-%m-%d %H:%M} UTC: {self.newest_reason}"

    @property
    def when(self) -> str:
        """When it makes batches, in words."""
        if self.problem is not None:
            return "unknown"
        if self.definition.schedule is None:
            return f"on arrival, quiet for {self.definition.quiet_for:,} s"
        return f"{self.definition.schedule} {self.definition.timezone}"

    @property
    def due_at(self) -> datetime | None:
        """The newest scheduled time that passed without an occurrence; earlier ones are skipped."""
        if self.recurrence is None or self.paused_at is not None or self.was_set_back:
            return None
        since = max(self.watched_from, self.scheduled_at or self.watched_from)
        return self.recurrence.newest(since, self.now)

    @property
    def next_at(self) -> datetime | None:
        """When its schedule fires next; None if it is paused or waits for arrivals."""
        if self.recurrence is None or self.paused_at is not None:
            return None
        return self.recurrence.first_after(self.now)

    @property
    def arrivals_at(self) -> datetime | None:
        """Time of the batch to make from waiting arrivals; None if none wait or more may still arrive."""
        if self.waiting_from is None or self.changed_at is None:
            return None
        quiet = timedelta(seconds=self.definition.quiet_for)
        # The cause of the last failure may persist.
        wait = quiet * MOST_WAITS if self.newest_outcome is OccurrenceOutcome.FAILED else quiet
        is_quiet = self.now - self.changed_at >= wait
        is_late = self.now - self.waiting_from >= quiet * MOST_WAITS
        return self.waiting_from if is_quiet or is_late else None

    def require_usable(self) -> None:
        """Require a definition that can be used.

        Raises
        ------
        RecurringError
        """
        if self.problem is not None:
            raise RecurringError(f"the recurring evaluation {self.name!r} cannot be used: {self.problem}")

    def is_by_hand(self, occurrence: Occurrence) -> bool:
        """Whether a person requested an occurrence: times of a schedule are whole minutes."""
        return self.recurrence is not None and occurrence.due_at.timestamp() % 60 != 0

    def require_pending(self, due_at: datetime) -> None:
        """Require that the batch of a scheduled time, or of arrivals since a time, may still be made.

        Raises
        ------
        RecurringError
            It is paused; the time is not of its schedule, or before it took effect; or the arrivals no longer
            wait.
        """
        if self.paused_at is not None:
            raise RecurringError(f"the recurring evaluation {self.name!r} is paused: resume it first")
        if self.recurrence is None and due_at != self.waiting_from:
            raise RecurringError(
                f"no documents of the recurring evaluation {self.name!r} have waited since "
                f"{due_at.isoformat()}: omit due_at to make a batch now"
            )
        if self.recurrence is not None and due_at <= self.watched_from:
            raise RecurringError(
                f"the recurring evaluation {self.name!r} makes no batch for {due_at.isoformat()}, which is "
                f"before its schedule took effect ({self.watched_from.isoformat()}): omit due_at to "
                "make a batch now"
            )
        if self.recurrence is not None and not self.recurrence.has(due_at):
            raise RecurringError(
                f"{due_at.isoformat()} is not a time of the schedule of the recurring evaluation "
                f"{self.name!r}: omit due_at to make a batch now"
            )
