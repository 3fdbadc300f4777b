"""When something recurs: a cron schedule in a time zone. No clock is read here.

Fields are those of Debian's cron: at an hour that a change to daylight saving time skips, a schedule of fixed
times fires right after the change, and at one that comes twice, once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

FIELDS = 5
LONGEST_SCHEDULE = 200
# In which the newest time is looked for first.
SHORTEST_SPAN = timedelta(hours=1)
_ADVICE = "write five fields, such as '0 2 * * 1-5' (minute, hour, day, month, weekday)"


@dataclass(frozen=True)
class Recurrence:
    """A cron schedule of five fields, and the IANA name of a time zone; both were found valid."""

    schedule: str
    timezone: str = "UTC"

    def first_after(self, moment: datetime) -> datetime | None:
        """The first time after a moment, in UTC; None where there is none in the next decades."""
        return next(self._after(moment), None)

    def newest(self, after: datetime, until: datetime) -> datetime | None:
        """The last time that is later than `after` and not later than `until`, in UTC."""
        # The library counts back in another way than forth where an hour comes twice.
        span = SHORTEST_SPAN
        while True:
            begin = max(after, until - span)
            found = list(takewhile(lambda time: time <= until, self._after(begin)))
            if found or begin == after:
                return found[-1] if found else None
            span *= 8

    def _after(self, moment: datetime) -> Iterator[datetime]:
        local = moment.astimezone(ZoneInfo(self.timezone))
        for found in CronSim(self.schedule, local):
            # Of an hour that comes twice the library may begin with the first one. Times of one zone are
            # compared without their offsets.
            if (time := found.astimezone(UTC)) > moment:
                yield time


def problem_of_schedule(schedule: str) -> str | None:
    """Why a text is no cron schedule that ever fires, and what to do; None for a usable one."""
    if len(schedule) > LONGEST_SCHEDULE or len(schedule.split()) != FIELDS:
        return f"is no cron schedule: {_ADVICE}"
    try:
        found = Recurrence(schedule).first_after(datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        return f"is no cron schedule ({str(error).removeprefix('Bad ')}): {_ADVICE}"
    return None if found is not None else f"never fires: {_ADVICE}"


def problem_of_timezone(name: str) -> str | None:
    """Why a text is no time zone, and what to do; None for a usable one."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return "is no known time zone: write one such as Europe/Berlin or UTC"
    return None
