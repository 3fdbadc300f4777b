"""A poll of folders without new files writes nothing, and an occurrence writes only changes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.recurring import find_arrivals, make_occurrence
from doceval_pipeline.domain.recurring import OccurrenceOutcome
from doceval_pipeline_tests.batches.staging.test_recurring import NIGHT, define, record_of
from doceval_pipeline_tests.conftest import write_old

WRITTEN = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, pg_current_wal_insert_lsn() - '0/0'"
# Where each row of a table is, and which transaction wrote it.
ROWS = "SELECT document_id, ctid::text, xmin::text FROM recurring_files"


def ask(databases: Databases, statement: str) -> list[Any]:
    with databases.doc_eval.connect() as connection:
        return list(connection.execute(text(statement)))


def written_by_a_poll(databases: Databases) -> tuple[int, int]:
    """The number of writing transactions during a poll, and bytes of WAL; autovacuum may add to both."""
    (before,) = ask(databases, WRITTEN)
    assert find_arrivals(databases, record_of(databases)) is None
    (after,) = ask(databases, WRITTEN)
    return after[0] - before[0], int(after[1] - before[1])


def test_a_poll_without_new_files_writes_nothing(databases: Databases, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(20):
        write_old(folder / f"{number}.txt", f"document {number}")
    record = define(databases, folder, schedule=None, on_arrival=True, quiet_for=3600, timezone="UTC")
    assert find_arrivals(databases, record) is None, "they have just arrived"
    assert make_occurrence(databases, record).outcome is OccurrenceOutcome.MADE
    find_arrivals(databases, record_of(databases))
    assert min(written_by_a_poll(databases) for _ in range(3)) == (0, 0)
    write_old(folder / "new.txt", "new")
    find_arrivals(databases, record_of(databases))
    assert record_of(databases).waiting_from is not None


def test_an_occurrence_writes_only_the_files_that_changed(databases: Databases, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(20):
        write_old(folder / f"{number}.txt", f"document {number}")
    record = define(databases, folder, scope="all", skip_if_nothing_new=False)
    make_occurrence(databases, record, NIGHT)
    before = set(ask(databases, ROWS))
    make_occurrence(databases, record, NIGHT + timedelta(days=1))
    assert set(ask(databases, ROWS)) == before
    write_old(folder / "3.txt", "another document")
    (folder / "4.txt").unlink()
    made = make_occurrence(databases, record, NIGHT + timedelta(days=2))
    assert (made.files.changed, made.files.gone, made.files.unchanged) == (1, 1, 18)
    assert len(set(ask(databases, ROWS)) & before) == 18


def test_a_file_that_the_newest_batch_could_not_read_is_changed(databases: Databases, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    write_old(folder / "a.txt", "a")
    record = define(databases, folder, scope="all", skip_if_nothing_new=False)
    for night in range(2):
        made = make_occurrence(databases, record, NIGHT + timedelta(days=night))

    def reject(batch_id: int | None) -> None:
        with databases.doc_eval.begin() as connection:
            connection.execute(
                text("UPDATE batch_documents SET state = 'REJECTED', reason = :why WHERE batch_id = :id"),
                {"id": batch_id, "why": "unreadable"},
            )

    reject(made.batch_id)
    nights = [make_occurrence(databases, record, NIGHT + timedelta(days=n)) for n in (2, 3)]
    assert [(n.files.changed, n.files.unchanged) for n in nights] == [(1, 0), (0, 1)]
    # One that cannot be read twice is not tried each night.
    reject(nights[-2].batch_id)
    reject(nights[-1].batch_id)
    last = make_occurrence(databases, record, NIGHT + timedelta(days=4))
    assert (last.files.changed, last.files.unchanged) == (0, 1)
