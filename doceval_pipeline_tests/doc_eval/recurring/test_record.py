"""When recurring evaluations are due: changes of the clock, missed times, and arrivals. No database."""

import dataclasses
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from doceval_pipeline.doc_eval.definitions.schema import RecurringDefinition
from doceval_pipeline.doc_eval.recurring.record import MOST_WAITS, RecurringRecord
from doceval_pipeline.domain.recurring import OccurrenceOutcome
from doceval_pipeline.errors import RecurringError
from doceval_pipeline.recurrence import Recurrence

NIGHT = datetime(2026, 12, 1, 2, tzinfo=UTC)
HOUR, DAY, MINUTE = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1)
AUTUMN, SPRING = datetime(2026, 10, 25, tzinfo=UTC), datetime(2027, 3, 28, tzinfo=UTC)


def record(now: datetime, **fields: Any) -> RecurringRecord:
    """A recurring evaluation of each night at 2, that was defined a day before NIGHT."""
    keys = {"schedule": "0 2 * * *", **fields.pop("keys", {})}
    given: dict[str, Any] = {
        "id": 1,
        "name": "inbox",
        "definition": RecurringDefinition(
            name="inbox", folders=["/inbox"], connections=["model"], prompts=["clarity"], **keys
        ),
        "watched_from": NIGHT - 12 * HOUR,
        "now": now,
    }
    unset = dict.fromkeys(field.name for field in dataclasses.fields(RecurringRecord))
    return RecurringRecord(**(unset | given | fields))


def times(recurrence: Recurrence, after: datetime, until: datetime) -> list[datetime]:
    """All times of a schedule, one found after the other."""
    found: list[datetime] = []
    moment = recurrence.first_after(after)
    while moment is not None and moment <= until:
        found.append(moment)
        moment = recurrence.first_after(moment)
    return found


@pytest.mark.parametrize(
    ("schedule", "autumn", "spring"),
    [
        ("30 2 * * *", ["00:30"], ["01:00"]),
        ("0 * * * *", ["00:00", "01:00", "02:00"], ["00:00", "01:00", "02:00"]),
        ("0 3 * * *", ["02:00"], ["01:00"]),
    ],
)
def test_an_hour_that_occurs_twice_or_never_has_each_time_once(
    schedule: str, autumn: list[str], spring: list[str]
) -> None:
    for day, expected in ((AUTUMN, autumn), (SPRING, spring)):
        found = times(Recurrence(schedule, "Europe/Berlin"), day - MINUTE, day + 2 * HOUR)
        assert [f"{time:%H:%M}" for time in found] == expected


@pytest.mark.parametrize(
    "timezone", ["Europe/Berlin", "Australia/Lord_Howe", "America/Havana", "Asia/Beirut"]
)
@pytest.mark.parametrize("schedule", ["30 2 * * *", "0 0 * * *", "*/20 * * * *", "45 1-3 * * *"])
def test_the_newest_time_is_the_last_one_whenever_it_is_asked_for(schedule: str, timezone: str) -> None:
    recurrence, draw = Recurrence(schedule, timezone), random.Random(1)
    for change in (AUTUMN, SPRING):
        begin = change - DAY
        every = times(recurrence, begin, begin + 3 * DAY)
        assert every == sorted(set(every))
        for _ in range(20):
            after = begin + timedelta(seconds=draw.randrange(2 * 86400))
            until = after + timedelta(seconds=draw.choice((30, 600, 4_000, 80_000)))
            found = [time for time in every if after < time <= until]
            assert recurrence.newest(after, until) == (found[-1] if found else None)


def test_checking_every_quarter_of_a_minute_finds_each_time_once() -> None:
    for day in (AUTUMN, SPRING):
        looked = record(day, keys={"schedule": "*/10 * * * *", "timezone": "Europe/Berlin"}, watched_from=day)
        made: list[datetime] = []
        for quarter in range(0, 4 * 180):
            looked = replace(looked, now=day + quarter * MINUTE / 4)
            if (due_at := looked.due_at) is not None:
                made.append(due_at)
                looked = replace(looked, scheduled_at=due_at, newest_due_at=due_at)
        assert made == [day + n * 10 * MINUTE for n in range(1, 18)]


@pytest.mark.parametrize(
    ("what", "fields", "due_at"),
    [
        ("it is not time yet", {"now": NIGHT - MINUTE}, None),
        ("it is time", {"now": NIGHT}, NIGHT),
        ("off for three days", {"now": NIGHT + 3 * DAY + HOUR}, NIGHT + 3 * DAY),
        ("defined just afterwards", {"watched_from": NIGHT + MINUTE / 2}, None),
        ("defined at that moment", {"watched_from": NIGHT}, None),
        ("made before", {"scheduled_at": NIGHT}, None),
        ("the one before was made", {"scheduled_at": NIGHT - DAY}, NIGHT),
        ("paused", {"paused_at": NIGHT - HOUR}, None),
        ("run by hand just afterwards", {"newest_due_at": NIGHT + MINUTE / 2}, NIGHT),
        ("the clock was set back", {"was_set_back": True}, None),
    ],
)
def test_the_newest_time_that_was_missed_is_due(
    what: str, fields: dict[str, Any], due_at: datetime | None
) -> None:
    assert record(**{"now": NIGHT + HOUR, **fields}).due_at == due_at, what


@pytest.mark.parametrize(
    ("what", "waited", "unchanged", "outcome", "is_due"),
    [
        ("it has just arrived", 0, 0, None, False),
        ("more arrived lately", 300, 59, None, False),
        ("it is quiet", 300, 60, OccurrenceOutcome.MADE, True),
        ("more arrives all the time", 60 * MOST_WAITS, 1, OccurrenceOutcome.MADE, True),
        ("the last one failed", 300, 60, OccurrenceOutcome.FAILED, False),
        (
            "the last one failed, some time ago",
            60 * MOST_WAITS,
            60 * MOST_WAITS,
            OccurrenceOutcome.FAILED,
            True,
        ),
    ],
)
def test_arrivals_become_a_batch_once_it_is_quiet_or_late(
    what: str, waited: int, unchanged: int, outcome: OccurrenceOutcome | None, is_due: bool
) -> None:
    began = NIGHT - timedelta(seconds=waited)
    watched = record(
        NIGHT,
        keys={"schedule": None, "on_arrival": True, "quiet_for": 60},
        waiting_from=began,
        changed_at=NIGHT - timedelta(seconds=unchanged),
        newest_outcome=outcome,
    )
    assert watched.due_at is None
    assert watched.arrivals_at == (began if is_due else None), what


def test_a_time_that_is_no_longer_pending_is_rejected() -> None:
    with pytest.raises(RecurringError, match="is paused: resume it first"):
        record(NIGHT, paused_at=NIGHT).require_pending(NIGHT)
    with pytest.raises(RecurringError, match="before its schedule took effect"):
        record(NIGHT, watched_from=NIGHT + MINUTE).require_pending(NIGHT)
    record(NIGHT).require_pending(NIGHT)
    arrivals = {"keys": {"schedule": None, "on_arrival": True}}
    for anew in (None, NIGHT + MINUTE):
        with pytest.raises(RecurringError, match="no documents of"):
            record(NIGHT, waiting_from=anew, **arrivals).require_pending(NIGHT)
    with pytest.raises(RecurringError, match="is paused"):
        record(NIGHT, waiting_from=NIGHT, paused_at=NIGHT, **arrivals).require_pending(NIGHT)
    record(NIGHT, waiting_from=NIGHT, **arrivals).require_pending(NIGHT)
