"""What others do while a batch is archived: processors that write, staging, ticks and reports."""

import json
import threading
from typing import Any
from zipfile import ZipFile

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.archiving import archive as archiving
from doceval_pipeline.batches.locks import number_lock
from doceval_pipeline.batches.monitoring import completion
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results import report_input
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.steps import queue_evaluations
from doceval_pipeline.doc_eval.files import FoundFile, assign_new, remember_found
from doceval_pipeline.errors import ArchiveError, BatchStateError, StagingError
from doceval_pipeline_tests.batches.archiving.archives import (
    WAITS_FOR_A_LOCK,
    BatchOf,
    archive,
    archive_batch,
    audit,
    done,
    holdings,
    is_marked_archived,
    quiet,
    restore_batch,
)
from doceval_pipeline_tests.cli.running import until
from doceval_pipeline_tests.conftest import write_old


def test_a_result_that_comes_while_the_archive_is_made_is_in_it(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))
    late: list[int] = []

    def write_late(done: int, *_: int) -> None:
        if done and not late:
            late.append(done)
            batch.plant(
                "UPDATE llm_responses SET response_text = 'late', overall_score = 1 "
                "WHERE id = (SELECT min(id) FROM llm_responses)"
            )

    archived = archive(batch.databases, batch.id, write_late, quiet)
    with ZipFile(archived.path) as file:
        assert file.read("attempts.jsonl").count(b'"late"') == 1
        assert json.loads(file.read("batch.json"))["batch"]["status"] == "COMPLETED"
    assert is_marked_archived(batch)
    assert holdings(batch)["llm_responses"] == []
    restore_batch(batch, archived)
    assert poll(batch.databases).reports == {}
    assert audit(batch) == []


def test_a_result_that_comes_after_the_report_is_in_the_report_too(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = done(batch_of(documents=1))
    write = archiving.write_archive

    def write_late(*arguments: Any) -> Any:
        monkeypatch.setattr(archiving, "write_archive", write)
        batch.plant("UPDATE llm_responses SET response_text = 'very late'")
        return write(*arguments)

    monkeypatch.setattr(archiving, "write_archive", write_late)
    archived = archive_batch(batch)
    with ZipFile(archived.path) as file:
        assert b"very late" in file.read("report.html")
    restore_batch(batch, archived)
    found = poll(batch.databases)
    assert (found.completed, found.reports) == ([], {})


def test_a_change_that_no_report_shows_is_not_lost_either(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))
    late: list[int] = []

    def write_late(*_: int) -> None:
        if not late:
            late.append(1)
            batch.plant("UPDATE llm_responses SET task_id = 'late' WHERE document_id = 1 OR true")

    archived = archive(batch.databases, batch.id, quiet, write_late)
    with ZipFile(archived.path) as file:
        assert file.read("attempts.jsonl").count(b'"late"') == 8


def test_a_batch_whose_own_row_changes_meanwhile_is_archived_as_it_is_then(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=1))
    changed: list[int] = []

    def fail_meanwhile(*_: int) -> None:
        if not changed:
            changed.append(1)
            batch.doc_eval("UPDATE batches SET status = 'FAILED', failure_reason = 'meanwhile'")

    archived = archive(batch.databases, batch.id, quiet, fail_meanwhile)
    with ZipFile(archived.path) as file:
        told = json.loads(file.read("batch.json"))["batch"]
    assert (told["status"], told["failure_reason"]) == ("COMPLETED", None), "as its rows say"
    assert batch.doc_eval("SELECT status, failure_reason FROM batches") == [("COMPLETED", None)]


def test_a_row_that_is_queued_again_while_the_archive_is_made_keeps_the_batch_here(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))

    def requeue(*_: int) -> None:
        batch.plant("UPDATE llm_responses SET status = 'QUEUED' WHERE response_text IS NOT NULL")

    with pytest.raises(BatchStateError, match="is STAGED and cannot be archived"):
        archive(batch.databases, batch.id, quiet, requeue)
    assert not is_marked_archived(batch)
    assert batch.knowledge("SELECT count(*) FROM llm_responses WHERE status = 'QUEUED'") == [(8,)]


def test_a_processor_that_goes_on_writing_is_named_and_nothing_is_removed(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=1))
    before = holdings(batch)

    def write(*_: int) -> None:
        batch.plant("UPDATE llm_responses SET input_tokens = coalesce(input_tokens, 0) + 1")

    with pytest.raises(ArchiveError, match="while a processor keeps writing its results: stop the"):
        archive(batch.databases, batch.id, quiet, write)
    assert not is_marked_archived(batch)
    for table in ("docs", "batch_documents", "batch_configs"):
        assert holdings(batch)[table] == before[table]
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(4,)]
    archive_batch(batch)


def test_a_row_that_a_processor_holds_is_waited_for(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=1))
    with batch.databases.knowledge.connect() as processor:
        transaction = processor.begin()
        processor.execute(text("SET LOCAL session_replication_role = replica"))
        processor.execute(text("UPDATE llm_responses SET response_text = 'held'"))
        results: list[Any] = []
        leaving = threading.Thread(target=lambda: results.append(archive_batch(batch)))
        leaving.start()
        until(lambda: batch.knowledge(WAITS_FOR_A_LOCK))
        assert not results
        transaction.commit()
    leaving.join()
    with ZipFile(results[0].path) as file:
        assert file.read("attempts.jsonl").count(b'"held"') == 4


def test_a_batch_that_queues_the_same_contents_just_now_keeps_them(batch_of: BatchOf) -> None:
    first, second = batch_of(documents=1, name="one"), batch_of(documents=0, name="two")
    done(first)
    # Queued by a program that doc_eval knows nothing of, and not committed yet.
    with second.databases.knowledge.connect() as stager:
        transaction = stager.begin()
        stager.execute(
            text(
                "INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, "
                "connection_details) SELECT 4711, min(id), 1, 1, '{}' FROM docs"
            )
        )
        results: list[Any] = []
        leaving = threading.Thread(target=lambda: results.append(archive_batch(first)))
        leaving.start()
        until(lambda: first.knowledge(WAITS_FOR_A_LOCK))
        transaction.commit()
    leaving.join()
    assert results[0].documents_removed == 0
    assert first.knowledge("SELECT count(*) FROM docs") == [(1,)]


def test_a_file_that_another_batch_has_just_found_stays(batch_of: BatchOf) -> None:
    """A walk that finds a file known assigns it in a later statement of its transaction."""
    first, second = batch_of(documents=2, name="one"), batch_of(documents=0, name="two")
    folder = first.doc_eval("SELECT folder_id FROM batch_folders WHERE batch_id = :id")[0][0]
    done(first)
    found = [FoundFile(folder, b"000.txt", "000.txt", "ASSIGNED", None, 1)]
    with second.databases.doc_eval.connect() as walker:
        transaction = walker.begin()
        remember_found(walker, found)
        leaving = threading.Thread(target=lambda: archive_batch(first))
        leaving.start()
        waiting = "SELECT 1 FROM pg_locks WHERE relation = 'documents'::regclass AND NOT granted"
        until(lambda: first.doc_eval(waiting))
        assert assign_new(walker, second.id) == 1
        transaction.commit()
    leaving.join()
    assert second.doc_eval("SELECT filepath FROM documents") == [("000.txt",)]


def test_a_batch_whose_contents_go_away_before_it_is_queued_says_so_and_can_be_materialized_again(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = batch_of(documents=2, name="one"), batch_of(documents=0, name="two")
    for path in first.folder.iterdir():
        write_old(second.folder / path.name, path.read_text())
    done(first)
    second.stage()
    second.knowledge("DELETE FROM llm_responses WHERE batch_id = :id")
    # Its files were recorded after archiving had looked who else needs the contents.
    monkeypatch.setattr(
        "doceval_pipeline.batches.archiving.archive.configuration.documents_of_other_batches",
        lambda *_: set(),
    )
    archived = archive_batch(first)
    with pytest.raises(StagingError, match="were archived with another batch meanwhile: materialize again"):
        queue_evaluations(second.databases, second.id)
    second.stage()
    assert second.knowledge("SELECT count(*) FROM llm_responses WHERE batch_id = :id") == [(8,)]
    assert audit(second) == []
    restore_batch(first, archived)
    assert audit(second) == []


def test_a_tick_that_read_the_batch_before_it_was_archived_does_not_open_it_again(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = done(batch_of(documents=1))
    count = completion._count_batches

    def archive_first(*arguments: Any) -> Any:
        monkeypatch.setattr(completion, "_count_batches", count)
        archive_batch(batch)
        return count(*arguments)

    monkeypatch.setattr(completion, "_count_batches", archive_first)
    poll(batch.databases)
    assert batch.status() == "COMPLETED"
    assert audit(batch) == []


def test_a_tick_that_saw_older_results_does_not_record_them_of_an_archived_batch(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = done(batch_of(documents=1))
    batch.knowledge("UPDATE llm_responses SET overall_score = 1")
    count = completion._count_batches

    def archive_newer(*arguments: Any) -> Any:
        monkeypatch.setattr(completion, "_count_batches", count)
        seen = count(*arguments)
        batch.knowledge("UPDATE llm_responses SET overall_score = 2")
        archive_batch(batch)
        return seen

    monkeypatch.setattr(completion, "_count_batches", archive_newer)
    poll(batch.databases)
    (file, digest), *_ = batch.doc_eval("SELECT archive_file, result_digest FROM batches")
    with ZipFile(batch.databases.settings.archives / file) as archive_file:
        assert json.loads(archive_file.read("batch.json"))["batch"]["result_digest"] == digest


def test_a_report_that_was_begun_before_the_batch_was_archived_is_not_written_of_nothing(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = done(batch_of(documents=1))
    read = report_input.read_current_results

    def archive_first(*arguments: Any) -> Any:
        monkeypatch.setattr(report_input, "read_current_results", read)
        archive_batch(batch)
        return read(*arguments)

    monkeypatch.setattr(report_input, "read_current_results", archive_first)
    with pytest.raises(BatchStateError, match="is archived"):
        write_report(batch.databases, batch.id)


def test_the_audit_leaves_a_batch_alone_that_is_being_archived(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=1))
    archive_batch(batch)
    batch.doc_eval(
        "INSERT INTO documents (folder_id, filepath, filename, raw_path) "
        "SELECT id, 'a', 'a', 'a' FROM folders"
    )
    batch.doc_eval(
        "INSERT INTO batch_documents (batch_id, document_id, state) SELECT :id, id, 'ASSIGNED' FROM documents"
    )
    with number_lock(batch.databases, batch.id):
        assert audit(batch) == []
    assert audit(batch) == [(batch.key, "the rows of every archived batch are removed from both databases")]
    archive_batch(batch)
    assert audit(batch) == []
