"""When the evaluations of a batch finished, and when none did for long."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Stall:
    """A time in which no evaluation finished for much longer than usual, although some were queued."""

    start: datetime
    seconds: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Finished evaluations over time: a count for each of the equal `bins` from `start`."""

    start: datetime
    bin_seconds: float
    bins: tuple[int, ...]
    stalls: tuple[Stall, ...]
    """The longest of `all_stalls`, in the order of time."""
    without_time: int
    """Finished evaluations without a time of completion, or with an impossible one."""
    all_stalls: int = 0
