"""Occurrences of recurring evaluations: one per time, whatever else happens or is in the folders."""

import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.files import recurring_listing
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.staging import planning, rescanning, steps
from doceval_pipeline.batches.staging.recurring import make_occurrence
from doceval_pipeline.batches.staging.reprocessing import Mode, reprocess
from doceval_pipeline.doc_eval.archive import dump
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.doc_eval.recurring.occurrences import delete_old_occurrences, list_occurrences
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.doc_eval.recurring.stored import (
    delete_recurring,
    find_recurring,
    list_recurring,
    lock_recurring,
    restart_from_now,
    try_to_lock_recurring,
)
from doceval_pipeline.documents.reading import CHANGED
from doceval_pipeline.domain.recurring import FileComparison, OccurrenceOutcome
from doceval_pipeline.errors import RecurringError, UnknownRecurring
from doceval_pipeline_tests.batches.archiving.archives import quiet
from doceval_pipeline_tests.batches.clock import clock_of
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.faults.faulty_process import FaultyProcess

NIGHT = datetime(2026, 12, 1, 1, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
REJECT = """
    UPDATE batch_documents b SET state = 'REJECTED', reason = :reason FROM documents d
    WHERE d.id = b.document_id AND b.batch_id = :id AND d.filepath = :path
"""


def define(databases: Databases, *folders: Path, name: str = "inbox", **keys: Any) -> RecurringRecord:
    content = {
        "connections": [
            {"name": name, "provider": "simulation", "model": "m"} for name in ("model", "other")
        ],
        "prompts": [{"name": "clarity", "text": "Is it clear?"}],
        "recurring": [
            {
                "name": name,
                "schedule": "0 2 * * *",
                "timezone": "Europe/Berlin",
                "folders": [str(folder) for folder in folders],
                "connections": ["model", "other"],
                "prompts": ["clarity"],
                **keys,
            }
        ],
    }
    apply_evaluation(databases.doc_eval, locate(content, None, key_path))
    with databases.doc_eval.begin() as connection:
        return find_recurring(connection, name)


def write(path: Path, content: str = "a document", at: int = 1_700_000_000) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    os.utime(path, (at, at))


def doc_eval(databases: Databases, statement: str, **parameters: Any) -> list[Any]:
    with databases.doc_eval.begin() as connection:
        result = connection.execute(text(statement), parameters)
        return list(result) if result.returns_rows else []


def files(databases: Databases, batch_id: int | None, *states: str) -> set[str]:
    rows = doc_eval(
        databases,
        """
        SELECT d.filepath FROM batch_documents b JOIN documents d ON d.id = b.document_id
        WHERE b.batch_id = :id AND b.state = ANY(:states)
        """,
        id=batch_id,
        states=list(states or ("ASSIGNED",)),
    )
    return {row[0] for row in rows}


def record_of(databases: Databases) -> RecurringRecord:
    with databases.doc_eval.begin() as connection:
        (record,) = list_recurring(connection)
        return record


def test_the_batches_of_an_occurrence_are_sealed_with_its_margin_and_earlier_ones_keep_theirs(
    databases: Databases, tmp_path: Path
) -> None:
    sealed = []
    for night, margin in enumerate((None, 3, 2.5)):
        write(tmp_path / "inbox" / f"{night}.txt", f"document {night}")
        record = define(databases, tmp_path / "inbox", margin=margin)
        assert make_occurrence(databases, record, NIGHT + night * DAY).outcome is OccurrenceOutcome.MADE
        sealed.append((margin, margin))
        found = doc_eval(
            databases, "SELECT margin, config_snapshot -> 'batch' -> 'margin' FROM batches ORDER BY id"
        )
        assert found == sealed
    keys = "SELECT config_snapshot -> 'batch' FROM batches ORDER BY id"
    assert ["margin" in batch for (batch,) in doc_eval(databases, keys)] == [False, True, True]


def test_a_missing_folder_is_recorded_and_nothing_in_it_is_new_afterwards(
    databases: Databases, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write(one / "a.txt")
    write(two / "b.txt")
    record = define(databases, one, two)
    assert make_occurrence(databases, record, NIGHT).outcome is OccurrenceOutcome.MADE
    two.rename(tmp_path / "away")
    write(one / "c.txt")
    away = make_occurrence(databases, record, NIGHT + DAY)
    assert (away.outcome, away.batch_id) == (OccurrenceOutcome.FAILED, None)
    assert away.reason is not None
    assert f"folder {two} does not exist" in away.reason
    # A mount that is missing leaves an empty folder.
    two.mkdir()
    empty = make_occurrence(databases, record, NIGHT + 2 * DAY)
    assert files(databases, empty.batch_id) == {"c.txt"}
    assert empty.files.gone == 0
    nothing = make_occurrence(databases, record, NIGHT + 3 * DAY)
    assert nothing.reason is not None
    assert f"folder {two} is empty, where 1 file was known" in nothing.reason
    two.rmdir()
    (tmp_path / "away").rename(two)
    back = make_occurrence(databases, record, NIGHT + 4 * DAY)
    assert (back.outcome, back.reason) == (OccurrenceOutcome.SKIPPED, "nothing is new or changed")
    (one / "a.txt").unlink()
    write(two / "d.txt")
    last = make_occurrence(databases, record, NIGHT + 5 * DAY)
    assert (files(databases, last.batch_id), last.files.gone) == ({"d.txt"}, 1)
    # What is gone is counted once, also where no batch is made, and so is a folder that is taken out.
    (one / "c.txt").unlink()
    (two / "b.txt").unlink()
    doc_eval(databases, "INSERT INTO folders (folder_path, folder_name) VALUES ('/other', 'other')")
    gone = [make_occurrence(databases, record, NIGHT + (6 + n) * DAY) for n in range(2)]
    assert [(night.outcome, night.files.gone) for night in gone] == [
        (OccurrenceOutcome.SKIPPED, 1),
        (OccurrenceOutcome.SKIPPED, 0),
    ]
    define(databases, one)
    out = [make_occurrence(databases, record, NIGHT + (8 + n) * DAY).files.gone for n in range(2)]
    assert out == [1, 0]


def test_a_file_system_that_hangs_fails_the_occurrence_and_blocks_nothing(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.txt")
    record = define(databases, tmp_path)
    free, found_files, seen = threading.Event(), recurring_listing.found_files, []

    def hangs(*given: Any) -> Any:
        """A walk that hangs, during which others use the database."""
        open_ = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        with databases.doc_eval.begin() as connection:
            seen.append((try_to_lock_recurring(connection, record.id), connection.scalar(text(open_))))
        free.wait(30)
        yield from found_files(*given)

    with monkeypatch.context() as patched:
        patched.setattr(recurring_listing, "found_files", hangs)
        patched.setattr(recurring_listing, "SECONDS_WITHOUT_ANSWER", 0.2)
        failed = make_occurrence(databases, record, NIGHT)
    free.set()
    assert seen == [(True, 0)]
    assert failed.outcome is OccurrenceOutcome.FAILED
    assert "its folders did not answer" in (failed.reason or "")
    assert files(databases, make_occurrence(databases, record, NIGHT + DAY).batch_id) == {"a.txt"}


def test_folders_are_walked_again_after_another_occurrence_was_made_meanwhile(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.txt")
    record = define(databases, tmp_path)
    found_files, others = recurring_listing.found_files, iter([NIGHT])

    def overtaken(*given: Any) -> Any:
        yield from list(found_files(*given))
        for at in others:
            write(tmp_path / "b.txt")
            make_occurrence(databases, record, at)

    monkeypatch.setattr(recurring_listing, "found_files", overtaken)
    late = make_occurrence(databases, record, NIGHT + DAY)
    assert (late.outcome, late.files) == (OccurrenceOutcome.SKIPPED, FileComparison(unchanged=2))


def test_deleting_waits_for_an_occurrence_that_is_being_made_for_longer_than_for_other_locks(
    databases: Databases, tmp_path: Path
) -> None:
    record = define(databases, tmp_path)
    with databases.doc_eval.connect() as making, databases.doc_eval.begin() as deleting:
        lock_recurring(making, record.id)
        threading.Timer(0.3, making.rollback).start()
        deleting.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
        assert delete_recurring(deleting, record.id)
        assert not delete_recurring(deleting, record.id)


def test_a_file_that_could_not_be_read_is_tried_again_although_it_is_unchanged(
    databases: Databases, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    for name in ("a.txt", "b.txt"):
        write(inbox / name)
    record = define(databases, inbox)
    first = make_occurrence(databases, record, NIGHT)
    doc_eval(databases, REJECT, id=first.batch_id, path="a.txt", reason=CHANGED)
    second = make_occurrence(databases, record, NIGHT + DAY)
    assert files(databases, second.batch_id) == {"a.txt"}
    assert make_occurrence(databases, record, NIGHT + 2 * DAY).outcome is OccurrenceOutcome.SKIPPED
    # Also when the batch that could not read it is archived in between.
    doc_eval(databases, REJECT, id=second.batch_id, path="a.txt", reason=CHANGED)
    with databases.doc_eval.begin() as connection:
        assert second.batch_id is not None
        dump.remove_files(connection, second.batch_id)
    assert files(databases, make_occurrence(databases, record, NIGHT + 3 * DAY).batch_id) == {"a.txt"}


def test_staging_again_and_rescans_use_only_the_files_of_an_occurrence_even_without_its_definition(
    databases: Databases, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    write(inbox / "old.txt", "old")
    record = define(databases, inbox)
    make_occurrence(databases, record, NIGHT)
    write(inbox / "new.txt", "new")
    number = make_occurrence(databases, record, NIGHT + DAY).batch_id
    assert number is not None
    with databases.doc_eval.begin() as connection:
        delete_recurring(connection, record.id)
    with pytest.raises(UnknownRecurring):
        make_occurrence(databases, record, NIGHT + 2 * DAY)
    # Its only file was being written.
    doc_eval(databases, REJECT, id=number, path="new.txt", reason=CHANGED)
    steps.seal_batch(databases, number)
    steps.assign_documents(databases, number)
    assert files(databases, number) == {"new.txt"}
    steps.store_documents(databases, number, lambda *_: None)
    steps.queue_evaluations(databases, number)
    write(inbox / "later.txt", "later")
    assert rescanning.rescan_folders(databases, number).new == 0
    assert files(databases, number, "STAGED", "ASSIGNED") == {"new.txt"}


def test_file_times_may_be_arbitrary_and_go_backwards(databases: Databases, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    # In nanoseconds the first needs more than 64 bits.
    for name, at in (("far.txt", 2**40), ("early.txt", -1_000_000_000), ("epoch.txt", 0)):
        write(inbox / name, at=at)
    record = define(databases, inbox)
    made = make_occurrence(databases, record, NIGHT)
    assert files(databases, made.batch_id) == {"far.txt", "early.txt", "epoch.txt"}
    assert make_occurrence(databases, record, NIGHT + DAY).outcome is OccurrenceOutcome.SKIPPED
    os.utime(inbox / "epoch.txt", (-5, -5))
    assert files(databases, make_occurrence(databases, record, NIGHT + 2 * DAY).batch_id) == {"epoch.txt"}


@pytest.mark.parametrize(
    ("table", "column", "name"),
    [("connections", "name", "other"), ("prompts", "name", "clarity"), ("folders", "folder_path", None)],
)
def test_a_missing_reference_is_recorded_and_the_next_occurrence_runs(
    databases: Databases, tmp_path: Path, table: str, column: str, name: str | None
) -> None:
    inbox = tmp_path / "inbox"
    write(inbox / "a.txt")
    record, name = define(databases, inbox), name or str(inbox)
    rename = f"UPDATE {table} SET {column} = :new WHERE {column} = :old"
    doc_eval(databases, rename, old=name, new="/renamed")
    failed = make_occurrence(databases, record, NIGHT)
    assert failed.outcome is OccurrenceOutcome.FAILED
    assert failed.reason is not None
    assert f"{table[:-1]} {name!r} no longer exists" in failed.reason
    doc_eval(databases, rename, old="/renamed", new=name)
    assert files(databases, make_occurrence(databases, record, NIGHT + DAY).batch_id) == {"a.txt"}


def test_a_requested_run_does_not_replace_a_scheduled_time(databases: Databases, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    write(inbox / "a.txt")
    with clock_of(databases, NIGHT - MINUTE) as clock:
        record = define(databases, inbox, scope="all", skip_if_nothing_new=False)
        doc_eval(databases, "UPDATE recurring_evaluations SET watched_from = now()")
        clock.moment = NIGHT + timedelta(milliseconds=300)
        by_hand = make_occurrence(databases, record)
        assert by_hand.due_at == clock.moment
        assert record_of(databases).due_at == NIGHT
        make_occurrence(databases, record, NIGHT)
        assert record_of(databases).due_at is None
    names = [row[0] for row in doc_eval(databases, "SELECT batch_name FROM batches ORDER BY id")]
    assert names == ["inbox 2026-12-01", "inbox 2026-12-01 02:00"]


def test_a_clock_that_was_wrong_neither_repeats_a_time_nor_ends_the_series(
    databases: Databases, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    write(inbox / "a.txt")
    record = define(databases, inbox, scope="all", skip_if_nothing_new=False)
    made = []

    def tick(moment: datetime) -> None:
        """Act as the sensor and its runs at a moment."""
        clock.moment = moment
        with databases.doc_eval.begin() as connection:
            (found,) = list_recurring(connection)
            if found.was_set_back:
                restart_from_now(connection, found.id)
        if (due_at := found.due_at) is not None:
            made.append(make_occurrence(databases, record, due_at).due_at)

    with clock_of(databases, NIGHT - MINUTE) as clock:
        doc_eval(databases, "UPDATE recurring_evaluations SET watched_from = now()")
        tick(NIGHT)
        # A year ahead for an hour, in which it is also paused and resumed, and back.
        ahead = NIGHT + 365 * DAY
        tick(ahead + MINUTE)
        doc_eval(databases, "UPDATE recurring_evaluations SET watched_from = now()")
        for minutes in (60, 61, 24 * 60 + 61, 2 * 24 * 60, 2 * 24 * 60 + 1):
            tick(NIGHT + minutes * MINUTE)
        assert made == [NIGHT, ahead, NIGHT + DAY, NIGHT + 2 * DAY]
        # Three days back: nothing is made a second time, and the days that come again have theirs.
        tick(NIGHT + 6 * DAY)
        for minutes in range(0, 5 * 24 * 60, 600):
            tick(NIGHT + 3 * DAY + (minutes + 60) * MINUTE)
        assert made[4:] == [NIGHT + n * DAY for n in (6, 4, 5, 7)]
    assert len(set(made)) == len(made)


def test_concurrent_processes_make_one_batch_per_time(databases: Databases, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    write(inbox / "a.txt")
    record = define(databases, inbox)
    times = (NIGHT, NIGHT, NIGHT, NIGHT + DAY)
    children = [
        FaultyProcess(databases, lambda at=at: make_occurrence(databases, record, at)) for at in times
    ]
    assert all(child.end().done for child in children)
    with databases.doc_eval.connect() as connection:
        found = list_occurrences(connection, record.id, 1000)
    assert sorted(o.outcome for o in found) == [OccurrenceOutcome.MADE, OccurrenceOutcome.SKIPPED]
    assert doc_eval(databases, "SELECT count(*) FROM batches") == [(1,)]
    again = make_occurrence(databases, record, found[0].due_at)
    assert again == found[0]


def test_a_new_definition_of_the_same_name_makes_no_earlier_times(
    databases: Databases, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    write(inbox / "a.txt")
    first = define(databases, inbox)
    with databases.doc_eval.begin() as connection:
        delete_recurring(connection, first.id)
    second = define(databases, inbox)
    assert second.id != first.id
    with pytest.raises(RecurringError, match="makes no batch for"):
        make_occurrence(databases, second, second.watched_from - MINUTE)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("{}", "is missing"),
        ('{"schedule": 5}', "schedule must be text"),
        ('{"schedule": "0 2 31 2 *"}', "schedule"),
        ('{"timezone": "Mars/Olympus"}', "timezone"),
        ('{"interval": "soon"}', "interval"),
        ('{"interval": 1e300}', "interval"),
        ('{"folders": [null]}', "folders.0"),
        ('{"of a newer version": true}', "of a newer version"),
        ('{"connections": "model", "prompts": 5, "max_cost": "x"}', "connections"),
        ("deep", "not readable"),
    ],
)
def test_an_invalid_stored_definition_is_never_due_and_is_reported(
    databases: Databases, tmp_path: Path, broken: str, problem: str
) -> None:
    record = define(databases, tmp_path)
    depth = 3_000
    deep = f'{{"metadata": {"[" * depth}{"]" * depth}}}'
    doc_eval(
        databases,
        """
        UPDATE recurring_evaluations SET watched_from = now() - interval '9 days',
               definition = CASE WHEN :broken = '{}' THEN '{}'
                                 ELSE definition || CAST(:broken AS jsonb) END
        """,
        broken=deep if broken == "deep" else broken,
    )
    found = record_of(databases)
    assert found.problem is not None
    assert problem in found.problem
    assert found.problem in (found.failure or "")
    assert (found.due_at, found.next_at) == (None, None)
    for use in (
        lambda: make_occurrence(databases, record),
        lambda: planning.plan_occurrence(databases, record, lambda *_: None),
    ):
        with pytest.raises(RecurringError, match="cannot be used"):
            use()
    # It keeps no other definition from being changed.
    define(databases, tmp_path, name="another", connections=["model"], max_cost=1)
    apply_evaluation(
        databases.doc_eval,
        locate({"prompts": [{"name": "clarity", "text": "Clear?"}]}, None, key_path),
    )


def test_a_rejected_system_folder_is_a_failure_with_its_reason(databases: Databases, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    write(inbox / "a.txt")
    record = define(databases, inbox)
    shutil.rmtree(inbox)
    inbox.symlink_to("/proc")
    failed = make_occurrence(databases, record, NIGHT)
    assert failed.outcome is OccurrenceOutcome.FAILED
    assert failed.reason is not None
    assert "belongs to the system" in failed.reason


def test_a_file_that_an_archived_occurrence_could_not_read_is_new_and_the_others_are_known(
    databases: Databases, tmp_path: Path
) -> None:
    record = define(databases, tmp_path)
    for name in "abc":
        write(tmp_path / name, name, 1_700_000_000)
    first = Sample(databases, make_occurrence(databases, record, NIGHT).batch_id or 0, "", tmp_path)
    (tmp_path / "b").unlink()
    first.stage()
    write(tmp_path / "b", "b", 1_700_000_000)
    first.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 50")
    poll(databases)
    archive(databases, first.id, quiet, quiet)
    made = make_occurrence(databases, record, NIGHT + timedelta(days=1))
    assert (files(databases, made.batch_id), made.files.unchanged) == ({"b"}, 2)
    # What it is made of stays, whatever becomes of the definition.
    second = Sample(databases, made.batch_id or 0, "", tmp_path)
    second.stage()
    with databases.doc_eval.begin() as connection:
        delete_recurring(connection, record.id)
    reprocess(databases, second.id, Mode.failed, quiet, rescan=True)
    assert second.doc_eval("SELECT count(*) FROM batch_documents") == [(1,)]


def test_an_occurrence_writes_only_new_files_and_old_ones_without_a_batch_are_deleted(
    databases: Databases, tmp_path: Path
) -> None:
    record = define(databases, tmp_path, scope="all", skip_if_nothing_new=False)
    for number in range(5):
        write(tmp_path / f"{number}", "x", 1_700_000_000)
    batch = Sample(databases, 0, "", tmp_path)
    made = [make_occurrence(databases, record, NIGHT + timedelta(days=night)) for night in range(2)]
    written = "SELECT ctid::text, xmin::text FROM recurring_files ORDER BY document_id"
    before = batch.doc_eval(written)
    write(tmp_path / "4", "xx", 1_700_000_000)
    made.append(make_occurrence(databases, record, NIGHT + timedelta(days=2)))
    after = batch.doc_eval(written)
    assert before[:4] == after[:4]
    assert before[4] != after[4]
    assert [(night.outcome, night.files.changed) for night in made] == [
        (OccurrenceOutcome.MADE, 0),
        (OccurrenceOutcome.MADE, 0),
        (OccurrenceOutcome.MADE, 1),
    ]
    # Of the schedule until ten days ago, and of arrivals since then.
    batch.doc_eval(
        "INSERT INTO occurrences (recurring_id, due_at, outcome, reason, recorded_at) "
        "SELECT r.id, date_trunc('day', now()) - interval '9 days' + night * interval '1 day' "
        "+ CASE WHEN night > 0 THEN 0.5 ELSE 0 END * interval '1 second', 'SKIPPED', 'nothing', "
        "now() - interval '40 days' FROM recurring_evaluations r, generate_series(-9, 9) AS night"
    )
    with databases.doc_eval.begin() as connection:
        assert [delete_old_occurrences(connection, 30) for _ in range(2)] == [17, 0]
    left = "SELECT now() - due_at < interval '1 day' FROM occurrences WHERE outcome <> 'MADE' ORDER BY due_at"
    assert batch.doc_eval(left) == [(False,), (True,)]
