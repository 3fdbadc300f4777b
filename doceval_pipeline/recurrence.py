"""Cron schedules in a time zone. Does not read the clock.

Schedules behave as in Debian's cron: a fixed time in an hour that daylight saving time skips fires right
after the change, and one in an hour that occurs twice fires once.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from doceval_pipeline.errors import ConfigurationError

LONGEST_SCHEDULE = 200
# The search for the newest time begins with this span.
SHORTEST_SPAN = timedelta(hours=1)
_FIELDS = {
    "minute": "minute (0-59)",
    "hour": "hour (0-23)",
    "day-of-month": "day of the month (1-31)",
    "month": "month (1-12 or JAN-DEC)",
    "day-of-week": "weekday (0-7 or SUN-SAT)",
}
_ADVICE = "write five fields, such as '0 2 * * 1-5' (minute, hour, day, month, weekday)"
_NEVER = "never fires, because no such date exists: correct the day or the month"
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# Names that depend on the machine, or that are not places.
_NO_PLACES = {"localtime", "Factory"}
_ZONE_ADVICE = "write one such as Europe/Berlin or UTC"
# Similarity, from 0 to 1, at which an unknown name counts as a misspelled time zone.
_LIKENESS = 0.8
_LONGEST_ZONE = 40
# Errors of zoneinfo for a name that is unknown, or that leads out of its folder.
_NO_ZONE = (ZoneInfoNotFoundError, ValueError, OSError)


@dataclass(frozen=True)
class Recurrence:
    """A valid cron schedule of five fields, in a time zone of the IANA database."""

    schedule: str
    timezone: str = "UTC"

    def first_after(self, moment: datetime) -> datetime | None:
        """The first time after a moment, in UTC; None if there is none in the next decades.

        Raises
        ------
        ConfigurationError
            This machine does not know the time zone, or the schedule is not valid.
        """
        return next(self._after(moment), None)

    def has(self, moment: datetime) -> bool:
        """Whether it fires at a moment."""
        return self.first_after(moment - timedelta(microseconds=1)) == moment

    def newest(self, after: datetime, until: datetime) -> datetime | None:
        """The last time after `after` and up to `until`, in UTC; None if there is none."""
        # Backwards, the library treats an hour that occurs twice differently, so this searches forwards.
        span = SHORTEST_SPAN
        while True:
            begin = max(after, until - span)
            times = list(takewhile(lambda time: time <= until, self._after(begin)))
            if times or begin == after:
                return times[-1] if times else None
            span *= 8

    def _after(self, moment: datetime) -> Iterator[datetime]:
        for local in self._simulated(moment):
            # In an hour that occurs twice, the library may begin with the first one. Python compares times of
            # one zone without their offsets.
            if (time := local.astimezone(UTC)) > moment:
                yield time

    def _simulated(self, moment: datetime) -> CronSim:
        try:
            return CronSim(self.schedule, moment.astimezone(zone(self.timezone)))
        except CronSimError:
            raise ConfigurationError(
                f"the schedule {self.schedule!r} is not valid: apply a corrected evaluation file"
            ) from None


def zone(name: str) -> ZoneInfo:
    """The time zone with a name.

    Raises
    ------
    ConfigurationError
        This machine does not know it.
    """
    try:
        return ZoneInfo(name)
    except _NO_ZONE:
        raise ConfigurationError(
            f"the time zone {name!r} is not known on this machine: apply a corrected evaluation file"
        ) from None


def in_zone(moment: datetime, timezone: str) -> str:
    """A time in a time zone and in UTC, such as 2026-12-01 02:00 CET (01:00 UTC)."""
    utc, local = moment.astimezone(UTC), local_time(moment, timezone)
    shown = f"{local:%Y-%m-%d %H:%M %Z}"
    if local.tzname() == "UTC":
        return shown
    return f"{shown} ({utc:{'%H:%M' if local.date() == utc.date() else '%Y-%m-%d %H:%M'}} UTC)"


def local_time(moment: datetime, timezone: str) -> datetime:
    """A time in a time zone; in UTC if this machine does not know the zone."""
    try:
        return moment.astimezone(ZoneInfo(timezone))
    except _NO_ZONE:
        return moment.astimezone(UTC)


def problem_of_schedule(schedule: str) -> str | None:
    """Why a text is not a cron expression that ever fires, and how to fix it; None for a usable one."""
    if nickname := _NICKNAMES.get(schedule.strip().lower()):
        return f"is not a cron expression of five fields: write '{nickname}'"
    fields = schedule.split()
    if len(schedule) > LONGEST_SCHEDULE or len(fields) < len(_FIELDS):
        return f"is not a valid cron expression: {_ADVICE}"
    if len(fields) > len(_FIELDS):
        return f"has {len(fields)} fields, but seconds and years are not supported: {_ADVICE}"
    try:
        first = Recurrence(schedule).first_after(datetime(2026, 1, 1, tzinfo=UTC))
    except ConfigurationError:
        field = _invalid_field(fields)
        return _NEVER if field is None else f"has an invalid {field}: {_ADVICE}"
    return None if first is not None else _NEVER


def _invalid_field(fields: list[str]) -> str | None:
    """The first invalid field; None if only the combination is invalid, such as February 30."""
    for place, (field, name) in enumerate(zip(fields, _FIELDS.values(), strict=True)):
        alone = ["*"] * len(_FIELDS)
        alone[place] = field
        try:
            CronSim(" ".join(alone), datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError:
            return name
    return None


def problem_of_timezone(name: str) -> str | None:
    """Why a text is not a time zone of the IANA database, and how to fix it; None for a usable one."""
    if name in _timezones():
        return None
    if re.search(r"[+-]?\d", name[:_LONGEST_ZONE]):
        return f"is not a known time zone, and offsets do not follow daylight saving time: {_ZONE_ADVICE}"
    near = _zone_meant(name)
    return f"is not a known time zone: {f'did you mean {near}?' if near else _ZONE_ADVICE}"


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones()) - _NO_PLACES


@cache
def _spellings() -> dict[str, str]:
    """Time zones by usual spellings: the name or only the city, in lower case."""
    zones = sorted(_timezones(), reverse=True)
    return {zone.rpartition("/")[2].lower(): zone for zone in zones} | {zone.lower(): zone for zone in zones}


def _zone_meant(name: str) -> str | None:
    """The time zone with this name in other letters, with this city, or with a similar spelling."""
    given = name.strip().lower().replace(" ", "_")
    if len(given) > _LONGEST_ZONE:
        return None
    known = _spellings()
    # Only with the same first letter: comparing thousands of spellings is slow.
    alike = [spelling for spelling in known if spelling[:1] == given[:1]]
    near = [given] if given in known else difflib.get_close_matches(given, alike, 1, _LIKENESS)
    return known[near[0]] if near else None
