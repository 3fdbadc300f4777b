"""When a schedule fires, and the error for an invalid one."""

from datetime import UTC, datetime

import pytest

from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.recurrence import Recurrence, in_zone, problem_of_schedule, problem_of_timezone

WINTER = datetime(2026, 12, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "schedule", ["0 2 * * 1-5", "*/15 * * * *", "0 2 * * MON-FRI", "0 0 29 2 *", "0 2 L * *", "0 0 31 2 1"]
)
def test_a_schedule_that_fires_some_day_is_valid(schedule: str) -> None:
    assert problem_of_schedule(schedule) is None


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("@daily", "is not a cron expression of five fields: write '0 0 * * *'"),
        ("@reboot", "is not a valid cron expression: write five fields"),
        ("every day", "is not a valid cron expression: write five fields"),
        ("", "is not a valid cron expression: write five fields"),
        ("0 0 2 * * *", "has 6 fields, but seconds and years are not supported"),
        ("60 2 * * *", "has an invalid minute (0-59)"),
        ("0 24 * * *", "has an invalid hour (0-23)"),
        ("0 2 */0 * *", "has an invalid day of the month (1-31)"),
        ("0 2 * 13 *", "has an invalid month (1-12 or JAN-DEC)"),
        ("0 2 * * Monday", "has an invalid weekday (0-7 or SUN-SAT)"),
        ("٠ ٢ * * *", "has an invalid minute (0-59)"),
        ("0 0 30 2 *", "never fires, because no such date exists"),
        ("0 0 31 2,4,6,9,11 *", "never fires, because no such date exists"),
        ("1," * 200 + "1 * * * *", "is not a valid cron expression: write five fields"),
    ],
)
def test_a_schedule_that_never_fires_is_rejected_with_the_wrong_field(schedule: str, expected: str) -> None:
    assert (problem_of_schedule(schedule) or "").startswith(expected)


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "CET", "US/Pacific", "Etc/GMT+5"])
def test_a_time_zone_of_the_iana_database_is_valid(name: str) -> None:
    assert problem_of_timezone(name) is None


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("europe/berlin", "did you mean Europe/Berlin?"),
        ("Europe/Berln", "did you mean Europe/Berlin?"),
        ("Europe/Berlin ", "did you mean Europe/Berlin?"),
        ("berlin", "did you mean Europe/Berlin?"),
        ("America/New York", "did you mean America/New_York?"),
        ("utc", "did you mean UTC?"),
        ("UTC+1", "offsets do not follow daylight saving time: write one such as Europe/Berlin or UTC"),
        ("+01:00", "offsets do not follow daylight saving time: write one such as Europe/Berlin or UTC"),
        *(
            (name, "is not a known time zone: write one such as Europe/Berlin or UTC")
            for name in (
                "",
                "../../etc/passwd",
                "/etc/passwd",
                "Europe",
                "localtime",
                "Factory",
                "a\0b",
                "A/" * 9999,
            )
        ),
    ],
)
def test_an_unknown_time_zone_is_rejected_with_a_suggestion(name: str, advice: str) -> None:
    assert (problem_of_timezone(name) or "").endswith(advice)


def test_a_stored_schedule_that_this_machine_does_not_know_is_one_line() -> None:
    for recurrence in (Recurrence("0 2 * * *", "Mars/Base"), Recurrence("nonsense")):
        with pytest.raises(ConfigurationError, match="apply a corrected evaluation file"):
            recurrence.first_after(WINTER)


@pytest.mark.parametrize(
    ("moment", "timezone", "shown"),
    [
        (WINTER, "Europe/Berlin", "2026-12-01 02:00 CET (01:00 UTC)"),
        (WINTER, "UTC", "2026-12-01 01:00 UTC"),
        (WINTER, "America/New_York", "2026-11-30 20:00 EST (2026-12-01 01:00 UTC)"),
        (WINTER, "Mars/Base", "2026-12-01 01:00 UTC"),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "Europe/Berlin", "2026-10-25 02:30 CEST (00:30 UTC)"),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "Europe/Berlin", "2026-10-25 02:30 CET (01:30 UTC)"),
    ],
)
def test_a_time_is_shown_in_its_zone_and_in_utc(moment: datetime, timezone: str, shown: str) -> None:
    assert in_zone(moment, timezone) == shown
