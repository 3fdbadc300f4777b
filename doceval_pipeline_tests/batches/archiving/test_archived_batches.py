"""A batch that is archived: what it still does, what is refused, and what the audit says of it."""

from collections.abc import Callable

import pytest

from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import Mode, cancel, pause, reprocess, resume
from doceval_pipeline.errors import ArchiveError, BatchStateError
from doceval_pipeline_tests.batches.archiving.archives import (
    BatchOf,
    archive_batch,
    audit,
    done,
    holdings,
    is_marked_archived,
    quiet,
    restore_batch,
)
from doceval_pipeline_tests.conftest import Sample

ACTIONS: dict[str, Callable[[Sample], object]] = {
    "stage": lambda batch: batch.stage(),
    "reprocess": lambda batch: reprocess(batch.databases, batch.id, Mode.all, quiet),
    "rescan": lambda batch: reprocess(batch.databases, batch.id, Mode.missing, quiet, rescan=True),
    "pause": lambda batch: pause(batch.databases, batch.id),
    "resume": lambda batch: resume(batch.databases, batch.id),
    "cancel": lambda batch: cancel(batch.databases, batch.id),
    "report": lambda batch: write_report(batch.databases, batch.id),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_what_needs_the_rows_is_refused_with_the_file_to_restore(batch_of: BatchOf, action: str) -> None:
    batch = done(batch_of(documents=1))
    archived = archive_batch(batch)
    before = holdings(batch)
    with pytest.raises(BatchStateError) as caught:
        ACTIONS[action](batch)
    assert str(caught.value) == (f"{batch.key} is archived: run doceval restore {archived.path.name} first")
    assert holdings(batch) == before
    assert batch.status() == "COMPLETED"


def test_no_tick_looks_at_an_archived_batch(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=1))
    archive_batch(batch)
    batch.doc_eval("UPDATE batches SET reported_digest = NULL")
    found = poll(batch.databases)
    assert (found.open, found.completed, found.reports) == ([], [], {})
    assert batch.status() == "COMPLETED"


@pytest.mark.parametrize(
    ("fault", "invariant"),
    [
        (
            "INSERT INTO batch_configs SELECT CAST(:id AS int), '{}', repeat('0', 64)",
            "the rows of every archived batch are removed from both databases",
        ),
        ("", "every archived batch has its archive file"),
    ],
)
def test_the_audit_finds_what_must_not_be_of_an_archived_batch(
    batch_of: BatchOf, fault: str, invariant: str
) -> None:
    batch = done(batch_of(documents=1))
    archived = archive_batch(batch)
    if fault:
        batch.knowledge(fault)
    else:
        archived.path.unlink()
    assert audit(batch) == [(batch.key, invariant)]


def test_the_audit_reads_an_archive_to_its_end_only_if_asked(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=1))
    archived = archive_batch(batch)
    content = archived.path.read_bytes()
    archived.path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    assert list(audit_installation(batch.databases, quiet, every_document=False)) == []
    assert audit(batch) == [(batch.key, "every archived batch has its archive file")]


def test_rows_that_come_after_the_batch_was_archived_are_not_taken_for_the_batch(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2, name="archived"))
    other = batch_of(documents=1, name="other")
    other.stage()
    archived = archive_batch(batch)
    batch.knowledge(
        "INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details) "
        "SELECT :id, min(id), 1, 1, '{}' FROM docs"
    )
    with pytest.raises(ArchiveError, match="is archived, but 1 rows of it were added later"):
        archive_batch(batch)
    with pytest.raises(ArchiveError, match=r"has 1 rows of batch .* that differ from the archive"):
        restore_batch(batch, archived)
    assert (batch.key, "the rows of every archived batch are removed from both databases") in audit(batch)
    assert archived.path.exists()


def test_a_configuration_that_comes_later_does_not_make_an_archived_batch_one_that_is_here(
    batch_of: BatchOf,
) -> None:
    batch = done(batch_of(documents=1))
    before = holdings(batch)
    archived = archive_batch(batch)
    batch.knowledge("INSERT INTO batch_configs SELECT CAST(:id AS int), '{}', repeat('0', 64)")
    with pytest.raises(ArchiveError, match="is archived, but a configuration of it was added later"):
        archive_batch(batch)
    assert is_marked_archived(batch), "or else nobody could restore it any more"
    batch.knowledge("DELETE FROM batch_configs")
    restore_batch(batch, archived)
    assert holdings(batch) == before


@pytest.mark.parametrize(
    ("database", "known"),
    [
        (
            "knowledge",
            {
                "llm_responses",
                "batch_configs",
                # Made anew from the rows.
                "response_counts",
                "response_deltas",
                # Made anew from the configuration.
                "batch_questions",
                # Not archived: requests are of the runs of one installation.
                "reprocess_requests",
            },
        ),
        (
            "doc_eval",
            {
                "batch_documents",
                "batch_folders",
                "batch_connections",
                "batch_prompts",
                "batch_progress",
                "connection_history",
                # Not archived: what a receiver was told stays told.
                "webhook_deliveries",
                # Of runs in Dagster, which stays.
                "run_requests",
                "live_runs",
                "lost_runs",
                # Of a recurring evaluation, which stays here.
                "occurrences",
                "recurring_files",
            },
        ),
    ],
)
def test_every_table_that_holds_something_of_a_batch_is_archived(
    batch_of: BatchOf, database: str, known: set[str]
) -> None:
    found = getattr(batch_of(documents=0), database)(
        "SELECT table_name FROM information_schema.columns JOIN information_schema.tables "
        "USING (table_schema, table_name) WHERE column_name = 'batch_id' AND table_type = 'BASE TABLE' "
        "AND table_schema = 'public'"
    )
    assert {row[0] for row in found} == known


def test_archiving_again_checks_the_file_and_changes_nothing(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))
    first = archive_batch(batch)
    before = holdings(batch)
    second = archive_batch(batch)
    assert (second.path, second.sha256, second.rows, second.documents) == (
        first.path,
        first.sha256,
        first.rows,
        first.documents,
    )
    assert holdings(batch) == before
    first.path.write_bytes(first.path.read_bytes()[:-1] + b"\1")
    with pytest.raises(ArchiveError, match=r"is not the archive of batch-.*|is damaged"):
        archive_batch(batch)
    first.path.unlink()
    with pytest.raises(ArchiveError, match=r"cannot be read \(No such file or directory\)"):
        archive_batch(batch)
