"""The occurrences of recurring evaluations, as they are recorded."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class OccurrenceOutcome(StrEnum):
    """Whether an occurrence made a batch."""

    MADE = "MADE"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class FileComparison:
    """The usable files of an occurrence, compared with those that the previous one knew."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    gone: int = 0

    @property
    def sentence(self) -> str:
        """The counts, for people."""
        return f"{self.new:,} new, {self.changed:,} changed, {self.unchanged:,} unchanged, {self.gone:,} gone"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """The record of one time of a recurring evaluation; times are UTC-aware."""

    due_at: datetime
    outcome: OccurrenceOutcome
    reason: str | None
    """Why there is no batch."""
    batch_id: int | None
    files: FileComparison
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class RecurringOrigin:
    """The recurring evaluation that made a batch, and the time of the occurrence."""

    name: str
    due_at: datetime

    def as_json(self) -> dict[str, str]:
        """Its shape in `doceval status --json`."""
        return {"name": self.name, "due_at": self.due_at.isoformat()}


@dataclass(frozen=True, slots=True)
class OccurrenceSummary:
    """The numbers of occurrences and batches of a recurring evaluation, and its open batches by id."""

    occurrences: int
    batches: int
    open_batches: list[int]
