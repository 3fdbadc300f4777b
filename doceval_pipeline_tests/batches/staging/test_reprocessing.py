"""Reprocessing, pausing and cancelling: as many rows as asked for, history kept, nothing lost."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.locks import batch_lock
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.monitoring.status import batch_progress
from doceval_pipeline.batches.results.report_input import gather
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.planning import plan
from doceval_pipeline.batches.staging.reprocessing import (
    Mode,
    cancel,
    pause,
    queue_attempts,
    reprocess,
    resume,
)
from doceval_pipeline.errors import BatchStateError, StagingError, UnknownBatch
from doceval_pipeline.knowledge.queue import LEFT
from doceval_pipeline_tests.batches.archiving.archives import archive_batch, restore_batch
from doceval_pipeline_tests.conftest import Sample, write_old

BatchOf = Callable[..., Sample]
ATTEMPTS = "SELECT attempt, status, count(*) FROM llm_responses GROUP BY 1, 2 ORDER BY 1, 2"


def again(batch: Sample, mode: Mode) -> tuple[int, int]:
    done = reprocess(batch.databases, batch.id, mode, lambda *_: None)
    return done.rows_added, done.new_attempts


def completed(batch_of: BatchOf, failed: int = 3) -> Sample:
    """A completed batch of 40 cells, some of which failed."""
    batch = batch_of(documents=10, connections=2, prompts=2)
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = 'F', error_message = 'overloaded' "
        "WHERE id IN (SELECT id FROM llm_responses ORDER BY id LIMIT :failed)",
        failed=failed,
    )
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 50 WHERE status = 'QUEUED'")
    poll(batch.databases)
    assert batch.status() == "COMPLETED"
    return batch


def test_three_failed_of_forty_are_queued_again_and_no_other(batch_of: BatchOf) -> None:
    batch = completed(batch_of)
    first = poll(batch.databases).reports[batch.id]
    assert again(batch, Mode.failed) == (0, 3)
    assert batch.status() == "STAGED"
    assert batch.knowledge(ATTEMPTS) == [(1, "F", 3), (1, "S", 37), (2, "QUEUED", 3)]
    assert again(batch, Mode.failed) == (0, 0), "the same request twice queues once"
    assert not poll(batch.databases).completed
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 90 WHERE attempt = 2")
    assert poll(batch.databases).reports[batch.id] != first
    assert batch.status() == "COMPLETED"
    assert batch.knowledge(ATTEMPTS) == [(1, "F", 3), (1, "S", 37), (2, "S", 3)], "old attempts stay"
    assert list(audit_installation(batch.databases, lambda *_: None, every_document=True)) == []
    changes = gather(batch.databases, batch.id).changes
    assert [(c.outcome_before, c.outcome, c.score) for c in changes] == [("failed", "succeeded", 90)] * 3
    page = write_report(batch.databases, batch.id).path.read_text()
    assert "3 of 40 evaluations have a later attempt" in page
    assert page.count("✕ failed</td>\n<td>✓ succeeded 90</td>") == 3


def requested(batch: Sample, request: str) -> int:
    return queue_attempts(batch.databases, batch.id, Mode.failed, request)[1]


def test_a_request_queues_attempts_once_whatever_became_of_them(batch_of: BatchOf) -> None:
    batch = completed(batch_of)
    assert requested(batch, "first") == 3
    batch.knowledge("UPDATE llm_responses SET status = 'F' WHERE attempt = 2")
    poll(batch.databases)
    closed = batch.doc_eval("SELECT status, completed_at FROM batches WHERE id = :id")
    assert requested(batch, "first") == 3, "it says what the request has queued"
    assert batch.knowledge(ATTEMPTS) == [(1, "F", 3), (1, "S", 37), (2, "F", 3)]
    assert not poll(batch.databases).completed
    assert batch.doc_eval("SELECT status, completed_at FROM batches WHERE id = :id") == closed
    assert requested(batch, "second") == 3
    assert requested(batch, "third") == 0, "they wait"
    assert batch.knowledge(ATTEMPTS)[-1] == (3, "QUEUED", 3)


def test_a_request_that_found_nothing_to_do_is_fulfilled_too(batch_of: BatchOf) -> None:
    batch = completed(batch_of, failed=0)
    assert requested(batch, "first") == 0
    batch.plant("UPDATE llm_responses SET status = 'F' WHERE id = (SELECT min(id) FROM llm_responses)")
    assert requested(batch, "first") == 0
    assert requested(batch, "second") == 1


def test_the_same_request_by_two_runs_at_once_queues_each_evaluation_once(batch_of: BatchOf) -> None:
    batch = completed(batch_of)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: requested(batch, "same"), range(2))) == [3, 3]
    assert batch.knowledge(ATTEMPTS)[-1] == (2, "QUEUED", 3)


def test_all_gives_every_finished_cell_a_new_attempt(batch_of: BatchOf) -> None:
    batch = completed(batch_of)
    assert again(batch, Mode.all) == (0, 40)
    assert again(batch, Mode.all) == (0, 0)
    assert batch.knowledge("SELECT count(*) FROM llm_responses WHERE attempt = 2") == [(40,)]


def test_the_same_request_by_several_at_once_queues_each_cell_once(batch_of: BatchOf) -> None:
    batch = completed(batch_of)
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: again(batch, Mode.all), range(3)))
    assert sorted(done) == [(0, 0), (0, 0), (0, 40)]
    assert batch.knowledge(ATTEMPTS) == [(1, "F", 3), (1, "S", 37), (2, "QUEUED", 40)]


def test_reprocessing_waits_for_a_run_of_the_same_batch(batch_of: BatchOf) -> None:
    batch = completed(batch_of)
    with ThreadPoolExecutor(1) as pool:
        with batch_lock(batch.databases, batch.id):
            asked = pool.submit(again, batch, Mode.failed)
            assert not wait([asked], timeout=1).done, "the batch is somebody else's"
        assert asked.result() == (0, 3)


def test_missing_repairs_and_touches_nothing_else(batch_of: BatchOf) -> None:
    batch = completed(batch_of)
    assert again(batch, Mode.missing) == (0, 0)
    assert batch.status() == "COMPLETED"
    batch.knowledge("DELETE FROM llm_responses WHERE id = (SELECT max(id) FROM llm_responses)")
    assert again(batch, Mode.missing) == (1, 0)
    assert batch.status() == "STAGED"


def test_rows_that_wait_or_run_are_left_alone(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1, connections=2, prompts=2)
    batch.stage()
    rows = [row[0] for row in batch.knowledge("SELECT id FROM llm_responses ORDER BY id")]
    batch.knowledge("UPDATE llm_responses SET status = 'P' WHERE id = :row", row=rows[0])
    batch.knowledge("UPDATE llm_responses SET status = 'F' WHERE id = :row", row=rows[1])
    assert again(batch, Mode.all) == (0, 1)
    assert batch.knowledge(ATTEMPTS) == [(1, "F", 1), (1, "P", 1), (1, "QUEUED", 2), (2, "QUEUED", 1)]


def test_a_late_success_of_a_superseded_attempt_stays_with_its_attempt(batch_of: BatchOf) -> None:
    batch = completed(batch_of)
    again(batch, Mode.failed)
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 1 WHERE status = 'F'")
    (found,) = poll(batch.databases).open
    assert (found.cells.succeeded, found.cells.waiting) == (37, 3)
    batch.knowledge("UPDATE llm_responses SET status = 'F' WHERE attempt = 2")
    (done,) = poll(batch.databases).completed
    assert (done.cells.succeeded, done.cells.failed) == (37, 3)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_batch_that_was_never_staged_cannot_be_reprocessed(batch_of: BatchOf, mode: Mode) -> None:
    with pytest.raises(BatchStateError, match="is SAVED and has nothing to reprocess: stage it first"):
        again(batch_of(documents=1), mode)


def test_pausing_holds_what_waits_and_resuming_releases_it(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'P' WHERE id = (SELECT min(id) FROM llm_responses)")
    assert pause(batch.databases, batch.id) == 7
    assert pause(batch.databases, batch.id) == 0
    assert batch.status() == "PAUSED"
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE status = 'P'")
    poll(batch.databases)
    assert batch.status() == "PAUSED"
    assert resume(batch.databases, batch.id) == 7
    assert batch.knowledge(ATTEMPTS) == [(1, "QUEUED", 7), (1, "S", 1)]
    poll(batch.databases)
    assert batch.status() == "ANALYZING"


def test_a_paused_batch_with_nothing_queued_completes_with_its_last_row(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'P'")
    assert pause(batch.databases, batch.id) == 0
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    poll(batch.databases)
    assert batch.status() == "COMPLETED"


def test_staging_a_paused_batch_is_refused_and_it_stays_paused(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    pause(batch.databases, batch.id)
    with pytest.raises(BatchStateError, match=f"is paused.*: run doceval resume {batch.id} first"):
        again(batch, Mode.missing)
    with pytest.raises(StagingError, match=f"is paused.*: run doceval resume {batch.id} first"):
        batch.stage()
    assert batch.status() == "PAUSED"


def test_cancelling_closes_what_waits_and_what_runs_may_finish(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1, connections=2, prompts=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'P' WHERE id = (SELECT min(id) FROM llm_responses)")
    assert cancel(batch.databases, batch.id) == 3
    poll(batch.databases)
    assert batch.status() == "ANALYZING"
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 7 WHERE status = 'P'")
    poll(batch.databases)
    assert batch.status() == "FAILED"
    assert batch.doc_eval("SELECT failure_reason FROM batches WHERE id = :id") == [
        ("cancelled; 1 of 4 evaluations had succeeded",)
    ]
    assert "cancelled by a person" in write_report(batch.databases, batch.id).path.read_text()
    poll(batch.databases)
    assert batch.status() == "FAILED"


def test_a_cancelled_batch_stays_cancelled_when_it_is_paused_and_resumed(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1, connections=1, prompts=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'P' WHERE id = (SELECT min(id) FROM llm_responses)")
    cancel(batch.databases, batch.id)
    poll(batch.databases)
    pause(batch.databases, batch.id)
    resume(batch.databases, batch.id)
    batch.knowledge("UPDATE llm_responses SET status = 'READY_TO_RETRY' WHERE status = 'P'")
    assert batch.knowledge(
        "SELECT status, error_message, completed_processing_at IS NOT NULL FROM llm_responses ORDER BY id"
    ) == [
        ("F", "the batch was cancelled, and its processor gave the row back", True),
        ("F", "cancelled by a person before it was processed", True),
    ]
    poll(batch.databases)
    assert batch.status() == "FAILED"


def test_a_cancelled_batch_can_be_reprocessed_and_complete(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    cancel(batch.databases, batch.id)
    poll(batch.databases)
    assert again(batch, Mode.failed) == (0, 4)
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE attempt = 2")
    poll(batch.databases)
    assert batch.status() == "COMPLETED"


@pytest.mark.parametrize("act", [cancel, pause])
@pytest.mark.parametrize(("word", "status"), [("S", "COMPLETED"), ("F", "FAILED")])
def test_a_batch_whose_rows_are_all_done_is_completed_by_whoever_comes_too_late_to_stop_it(
    batch_of: BatchOf, act: Callable[[Databases, int], int], word: str, status: str
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = :word", word=word)
    line = f"batch {batch.id} is {status} now, because all its rows are done; possible now: reprocess"
    with pytest.raises(BatchStateError, match=line):
        act(batch.databases, batch.id)
    assert batch.status() == status
    # The sensor still tells of it.
    assert [seen.batch.id for seen in poll(batch.databases, reported={}).completed] == [batch.id]


def test_a_paused_batch_whose_last_rows_came_in_meanwhile_is_completed_by_a_cancel(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'P'")
    assert pause(batch.databases, batch.id) == 0
    assert batch.status() == "PAUSED"
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    with pytest.raises(BatchStateError, match="is COMPLETED now"):
        cancel(batch.databases, batch.id)
    assert batch.status() == "COMPLETED"


def test_a_cancel_that_finds_only_running_rows_says_how_many(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'P'")
    with pytest.raises(BatchStateError, match="it ends when its last 4 running rows have finished"):
        cancel(batch.databases, batch.id)
    assert batch.status() == "STAGED"


def test_a_cancelled_batch_whose_last_rows_run_shows_no_throughput(batch_of: BatchOf) -> None:
    batch = batch_of(documents=4)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'P' WHERE id = (SELECT min(id) FROM llm_responses)")
    poll(batch.databases)
    batch.doc_eval("UPDATE batch_progress SET observed_at = observed_at - interval '1 minute'")
    assert cancel(batch.databases, batch.id) == 15
    poll(batch.databases)
    pace = batch_progress(batch.databases, str(batch.id)).as_json()["pace"]
    assert (pace["cells_per_hour"], pace["seconds_left"]) == (None, None)


def test_a_second_cancel_waits_for_the_running_rows_too(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'P' WHERE id = (SELECT min(id) FROM llm_responses)")
    assert cancel(batch.databases, batch.id) == 3
    with pytest.raises(BatchStateError, match="no waiting rows to cancel"):
        cancel(batch.databases, batch.id)
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE status = 'P'")
    with pytest.raises(BatchStateError, match="is FAILED now"):
        cancel(batch.databases, batch.id)


@pytest.mark.parametrize(
    ("prepare", "action", "line"),
    [
        ("", pause, "is SAVED and cannot be paused: possible now: stage"),
        ("", cancel, "is SAVED and cannot be cancelled: possible now: stage"),
        ("stage", resume, "is STAGED and cannot be resumed: possible now: pause, cancel"),
        ("pause", pause, ""),
        ("complete", pause, "is COMPLETED and cannot be paused: possible now: reprocess"),
        ("complete", resume, "is COMPLETED and cannot be resumed"),
        ("complete", cancel, "is COMPLETED and cannot be cancelled"),
    ],
)
def test_what_a_state_does_not_allow_is_refused_with_what_is_possible(
    batch_of: BatchOf, prepare: str, action: Callable[..., int], line: str
) -> None:
    batch = batch_of(documents=1)
    if prepare:
        batch.stage()
    if prepare == "pause":
        pause(batch.databases, batch.id)
    if prepare == "complete":
        batch.knowledge("UPDATE llm_responses SET status = 'S'")
        poll(batch.databases)
    before = batch.status()
    if line:
        with pytest.raises(BatchStateError, match=line):
            action(batch.databases, batch.id)
    else:
        action(batch.databases, batch.id)
    assert batch.status() == before


@pytest.mark.parametrize("action", [pause, resume, cancel])
def test_a_number_without_a_batch_is_refused(batch_of: BatchOf, action: Callable[..., int]) -> None:
    with pytest.raises(UnknownBatch):
        action(batch_of(documents=0).databases, 4711)


def rescan_counts(batch: Sample) -> tuple[int, int, int, int]:
    done = reprocess(batch.databases, batch.id, Mode.missing, lambda *_: None, rescan=True)
    return done.files_new, done.files_changed, done.files_gone, done.rows_added


def test_a_rescan_adds_new_and_changed_files_and_withdraws_rows_of_gone_ones(batch_of: BatchOf) -> None:
    batch = batch_of(documents=4, connections=1, prompts=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 50")
    poll(batch.databases)
    (batch.folder / "new.txt").write_text("new")
    (batch.folder / "001.txt").write_text("other words")
    (batch.folder / "002.txt").unlink()
    (batch.folder / "003.txt").write_text("")
    assert rescan_counts(batch) == (1, 1, 2, 4)
    assert batch.status() == "STAGED"
    assert batch.doc_eval(
        "SELECT state, reason, count(*) FROM batch_documents WHERE batch_id = :id GROUP BY 1, 2 ORDER BY 1"
    ) == [("REJECTED", "vanished", 1), ("SKIPPED", "empty", 1), ("STAGED", None, 3)]
    # What was paid for is kept, and no longer counted.
    assert batch.knowledge(
        "SELECT withdrawn_at IS NULL, status, count(*) FROM llm_responses GROUP BY 1, 2 ORDER BY 1, 2"
    ) == [(False, "S", 6), (True, "QUEUED", 4), (True, "S", 2)]
    (found,) = poll(batch.databases).open
    assert (found.expected, found.cells.rows, found.cells.succeeded) == (6, 6, 2)
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE status = 'QUEUED'")
    poll(batch.databases)
    assert batch.status() == "COMPLETED"
    assert list(audit_installation(batch.databases, lambda *_: None, every_document=True)) == []


def test_a_rescan_without_changes_changes_nothing(batch_of: BatchOf) -> None:
    batch = completed(batch_of)
    before = batch.knowledge("SELECT md5(string_agg(r::text, '' ORDER BY id)) FROM llm_responses r")
    assert rescan_counts(batch) == (0, 0, 0, 0)
    assert batch.status() == "COMPLETED"
    assert batch.knowledge("SELECT md5(string_agg(r::text, '' ORDER BY id)) FROM llm_responses r") == before


def test_a_document_that_returns_has_its_results_again(batch_of: BatchOf) -> None:
    batch = completed(batch_of, failed=0)
    content = (batch.folder / "004.txt").read_bytes()
    (batch.folder / "004.txt").unlink()
    assert rescan_counts(batch) == (0, 0, 1, 0)
    (batch.folder / "004.txt").write_bytes(content)
    assert rescan_counts(batch) == (1, 0, 0, 0)
    assert batch.knowledge("SELECT count(*) FROM current_llm_responses WHERE status = 'S'") == [(40,)]


def test_a_document_that_left_is_not_evaluated_until_it_returns(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    batch.stage()
    content = (batch.folder / "001.txt").read_bytes()
    (batch.folder / "001.txt").unlink()
    assert rescan_counts(batch) == (0, 0, 1, 0)
    assert len(batch.knowledge("SELECT token FROM claim_responses(5, '1 hour')")) == 1
    batch.knowledge(
        "UPDATE llm_responses SET lease_expires_at = NULL, status = 'S', overall_score = 50 "
        "WHERE status = 'P'"
    )
    poll(batch.databases)
    assert batch.status() == "COMPLETED"
    # All of its rows are done, so that its archive can be restored.
    restore_batch(batch, archive_batch(batch))
    write_old(batch.folder / "001.txt", content.decode())
    new = plan(batch.databases, batch.id, Mode.missing, lambda *_: None, rescan=True)
    assert new.cells.superseded == {"returned": 1}
    assert [estimate.cells for estimate in new.estimates] == [1]
    cancelled = "UPDATE batch_configs SET requeue_as = 'F'"
    batch.knowledge(cancelled)
    done = reprocess(batch.databases, batch.id, Mode.missing, lambda *_: None, rescan=True)
    assert (done.files_new, done.rows_added, done.new_attempts) == (1, 0, 1)
    assert batch.knowledge("SELECT requeue_as FROM batch_configs") == [("QUEUED",)]
    assert batch.knowledge(ATTEMPTS) == [(1, "F", 1), (1, "S", 1), (2, "QUEUED", 1)]
    # A processor that gives a row back whose document left meanwhile is not handed it again.
    ((token,),) = batch.knowledge("SELECT token FROM claim_responses(5, '1 hour')")
    (batch.folder / "001.txt").unlink()
    rescan_counts(batch)
    batch.knowledge("SELECT fail_response(:token, 'not now', retry => true)", token=token)
    assert batch.knowledge("SELECT error_message FROM llm_responses WHERE attempt = 2") == [(LEFT,)]
    assert list(audit_installation(batch.databases, lambda *_: None, every_document=True)) == []


def test_a_rescan_of_a_folder_that_is_gone_changes_nothing(batch_of: BatchOf) -> None:
    batch = completed(batch_of)
    batch.folder.rename(batch.folder.with_name("elsewhere"))
    with pytest.raises(StagingError, match="does not exist"):
        rescan_counts(batch)
    assert batch.status() == "COMPLETED"
    assert batch.doc_eval("SELECT DISTINCT state FROM batch_documents WHERE batch_id = :id") == [("STAGED",)]


def test_duplicates_of_a_file_that_is_gone_keep_its_results(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    (batch.folder / "twin.txt").write_bytes((batch.folder / "001.txt").read_bytes())
    batch.stage()
    (batch.folder / "001.txt").unlink()
    assert rescan_counts(batch) == (0, 0, 1, 0)
    assert batch.knowledge("SELECT count(*) FROM current_llm_responses") == [(8,)]
