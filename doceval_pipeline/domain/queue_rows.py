"""Rows of the queue that are running or deferred, as `status` and the stall check report them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

# At most this many give-backs of a row are uncounted (migration 0010).
MOST_UNCOUNTED = 1_000


@dataclass(frozen=True, slots=True)
class RunningRows:
    """Running rows of one batch and connection, either all with a valid lease or all without.

    `oldest_seconds` is the age of the oldest, None if no processor wrote its start. `lease_ends` is the
    end of the last lease, None for rows without a valid lease.
    """

    batch_id: int
    connection_id: int
    connection: str
    rows: int
    oldest_seconds: float | None
    lease_ends: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeferredRows:
    """Waiting rows of a batch that processors gave back with a `not_before` time.

    `rows` are not due yet: their times lie between `first` and `last`, both None without such rows.
    `uncounted` is the highest number of uncounted give-backs of a row. `due_seconds` is the time since the
    latest `not_before` that has passed, None if none has.
    """

    batch_id: int
    rows: int
    first: datetime | None
    last: datetime | None
    uncounted: int
    due_seconds: float | None

    @property
    def sentence(self) -> str:
        """One sentence: until when the rows wait, and how often processors gave them back."""
        many = "1 row waits" if self.rows == 1 else f"{self.rows:,} rows wait"
        first, last = (in_utc(moment) if moment else "" for moment in (self.first, self.last))
        until = last if first == last else f"{first} to {last}"
        often = ""
        if self.uncounted > 1:
            often = f"; given back up to {self.uncounted:,} of {MOST_UNCOUNTED:,} times without counting"
        if self.uncounted >= MOST_UNCOUNTED:
            often += "; further ones count towards the five deliveries"
        return f"{many} until {until} UTC, as the processor asked{often}"

    def as_json(self) -> dict[str, Any]:
        """The value of `deferred` in `doceval status --json`; its keys are public."""
        return {
            "rows": self.rows,
            "first": None if self.first is None else self.first.astimezone(UTC).isoformat(),
            "last": None if self.last is None else self.last.astimezone(UTC).isoformat(),
            "uncounted": self.uncounted,
        }


def in_utc(moment: datetime) -> str:
    """A time in UTC, to the second, for people."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
