"""Polls of folders for arrivals: when they become a batch, and what is written meanwhile."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging import recurring
from doceval_pipeline.batches.staging.recurring import find_arrivals, make_occurrence
from doceval_pipeline.doc_eval.recurring.record import MOST_WAITS
from doceval_pipeline.doc_eval.recurring.stored import list_recurring, lock_recurring, restart_from_now
from doceval_pipeline.documents.reading import CHANGED
from doceval_pipeline.documents.walk import VANISHED
from doceval_pipeline.domain.recurring import Occurrence, OccurrenceOutcome
from doceval_pipeline.errors import StagingError
from doceval_pipeline_tests.batches.clock import Clock, clock_of
from doceval_pipeline_tests.batches.staging.test_recurring import (
    REJECT,
    define,
    doc_eval,
    files,
    record_of,
    write,
)

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
QUIET = 60
LONG_AGO = int(NOON.timestamp()) - 86_400
ROW = "SELECT xmin::text, ctid::text FROM recurring_evaluations"


class Watched:
    """A folder that is polled every `QUIET` seconds, as the sensor does, or sooner."""

    def __init__(self, databases: Databases, inbox: Path, clock: Clock) -> None:
        inbox.mkdir()
        self.databases, self.inbox, self.clock = databases, inbox, clock
        define(databases, inbox, schedule=None, on_arrival=True, quiet_for=QUIET)

    def arrive(self, name: str, at: int = LONG_AGO) -> None:
        write(self.inbox / name, f"content of {name}", at)

    def look(self, seconds: int = QUIET) -> datetime | None:
        """Poll after some seconds; return the time of the batch to make now."""
        self.clock.moment += timedelta(seconds=seconds)
        with self.databases.doc_eval.begin() as connection:
            (record,) = list_recurring(connection)
            if record.was_set_back:
                restart_from_now(connection, record.id)
        return find_arrivals(self.databases, record)

    def make(self, due_at: datetime | None) -> Occurrence:
        assert due_at is not None
        return make_occurrence(self.databases, record_of(self.databases), due_at)

    def made(self, due_at: datetime | None) -> set[str]:
        return files(self.databases, self.make(due_at).batch_id)

    def row(self) -> list[Any]:
        return doc_eval(self.databases, ROW)


@pytest.fixture
def watched(databases: Databases, tmp_path: Path) -> Any:
    with clock_of(databases, NOON) as clock:
        yield Watched(databases, tmp_path / "inbox", clock)


def test_arrivals_become_a_batch_once_quiet_and_polls_without_news_write_nothing(
    watched: Watched,
) -> None:
    watched.look()
    before = watched.row()
    assert (watched.look(), watched.row()) == (None, before)
    watched.arrive("a.txt")
    assert watched.look() is None
    began = watched.clock.moment
    watched.arrive("b.txt")
    assert watched.look(QUIET - 1) is None
    assert watched.look(QUIET - 1) is None
    due_at = watched.look(1)
    assert due_at == began
    assert watched.made(due_at) == {"a.txt", "b.txt"}
    before = watched.row()
    assert (watched.look(), watched.look(), watched.row()) == (None, None, before)
    # Touched without a change of content: it is looked at, and its result is reused.
    os.utime(watched.inbox / "a.txt", (LONG_AGO + 5, LONG_AGO + 5))
    watched.look()
    assert watched.made(watched.look()) == {"a.txt"}


def test_arrivals_that_vanish_make_no_batch(watched: Watched) -> None:
    watched.arrive("a.txt")
    assert watched.look() is None
    (watched.inbox / "a.txt").unlink()
    assert [watched.look() for _ in range(3)] == [None] * 3


def test_a_file_that_keeps_changing_delays_others_only_for_a_while_and_follows_later(
    watched: Watched,
) -> None:
    watched.arrive("done.txt")
    assert watched.look() is None
    began = watched.clock.moment
    for _ in range(2 * MOST_WAITS - 1):
        watched.arrive("growing.txt", int(watched.clock.moment.timestamp()) + QUIET // 2)
        assert watched.look(QUIET // 2) is None
    watched.arrive("growing.txt", int(watched.clock.moment.timestamp()) + QUIET // 2)
    due_at = watched.look(QUIET // 2)
    assert due_at == began
    assert watched.made(due_at) == {"done.txt"}
    # Nobody writes it any more, although it looks as the batch found it.
    looks = [watched.look() for _ in range(3)]
    assert looks[0] is None
    assert watched.made(looks[-1]) == {"growing.txt"}
    # Alone, it asks for no batch at all while it is written.
    for _ in range(MOST_WAITS + 2):
        watched.arrive("growing.txt", int(watched.clock.moment.timestamp()) + QUIET // 2)
        assert watched.look(QUIET // 2) is None
    assert doc_eval(watched.databases, "SELECT count(*) FROM occurrences") == [(2,)]


@pytest.mark.parametrize("dated", [2**32, 2**40, -(2**31)])
def test_a_file_dated_in_another_century_does_not_wait_for_it(watched: Watched, dated: int) -> None:
    watched.arrive("dated.txt", dated)
    watched.look()
    assert watched.made(watched.look()) == {"dated.txt"}


def test_after_a_failure_waiting_arrivals_become_a_batch_of_another_time(watched: Watched) -> None:
    watched.arrive("a.txt")
    watched.look()
    due_at = watched.look()
    away = watched.inbox.rename(watched.inbox.with_name("away"))
    failed = watched.make(due_at)
    assert failed.outcome is OccurrenceOutcome.FAILED
    for _ in range(2):
        with pytest.raises(StagingError, match="does not exist"):
            watched.look()
    assert outcomes(watched) == ["FAILED"]
    away.rename(watched.inbox)
    looks = [watched.look() for _ in range(MOST_WAITS + 1)]
    assert looks[:-1] == [None] * MOST_WAITS
    assert watched.made(looks[-1]) == {"a.txt"}


def outcomes(watched: Watched) -> list[str]:
    return [row[0] for row in doc_eval(watched.databases, "SELECT outcome FROM occurrences ORDER BY due_at")]


def test_a_folder_that_vanishes_and_returns_is_recorded_once_each(watched: Watched) -> None:
    watched.arrive("a.txt")
    watched.look()
    watched.make(watched.look())
    away = watched.inbox.rename(watched.inbox.with_name("away"))
    for _ in range(3):
        with pytest.raises(StagingError, match="does not exist"):
            watched.look()
    assert outcomes(watched) == ["MADE", "FAILED"]
    assert "does not exist" in (record_of(watched.databases).failure or "")
    away.rename(watched.inbox)
    assert [watched.look() for _ in range(3)] == [None] * 3
    assert outcomes(watched) == ["MADE", "FAILED", "SKIPPED"]
    assert record_of(watched.databases).failure is None


def test_a_file_that_changed_while_being_read_is_tried_again(watched: Watched) -> None:
    watched.arrive("a.txt")
    watched.look()
    batch_id = watched.make(watched.look()).batch_id
    doc_eval(watched.databases, REJECT, id=batch_id, path="a.txt", reason=CHANGED)
    watched.look()
    assert watched.made(watched.look()) == {"a.txt"}
    # One that can never be read is not taken again and again.
    doc_eval(watched.databases, REJECT, id=(batch_id or 0) + 1, path="a.txt", reason="unreadable")
    assert [watched.look() for _ in range(3)] == [None] * 3


def test_a_file_that_vanished_before_it_was_read_does_not_make_each_poll_compare_all_files(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "b.txt"):
        watched.arrive(name)
    watched.look()
    batch_id = watched.make(watched.look()).batch_id
    doc_eval(watched.databases, REJECT, id=batch_id, path="a.txt", reason=VANISHED)
    (watched.inbox / "a.txt").unlink()
    watched.look()
    with monkeypatch.context() as patched:
        patched.setattr(recurring, "list_files", None)
        assert watched.look() is None
    watched.arrive("a.txt")
    watched.look()
    assert watched.made(watched.look()) == {"a.txt"}


def test_arrivals_while_the_batch_is_made_wait_for_the_next_poll(watched: Watched) -> None:
    watched.arrive("a.txt")
    with watched.databases.doc_eval.begin() as making:
        lock_recurring(making, record_of(watched.databases).id)
        assert watched.look() is None
        assert record_of(watched.databases).waiting_from is None
    assert watched.look() is None
    assert record_of(watched.databases).waiting_from == watched.clock.moment


def test_a_clock_that_was_ahead_does_not_stop_polling(watched: Watched) -> None:
    watched.clock.moment += timedelta(days=365)
    watched.arrive("a.txt")
    watched.look()
    watched.clock.moment -= timedelta(days=365)
    looks = [watched.look() for _ in range(4)]
    assert watched.made(looks[-1]) == {"a.txt"}


def test_a_poll_that_takes_too_long_is_stopped_and_records_nothing(watched: Watched) -> None:
    watched.look()
    for number in range(5):
        watched.arrive(f"{number}.txt")
    answers = iter([False] * 3 + [True] * 10)
    before = watched.row()
    with pytest.raises(StagingError, match="use a schedule"):
        find_arrivals(watched.databases, record_of(watched.databases), lambda: next(answers))
    assert watched.row() == before
