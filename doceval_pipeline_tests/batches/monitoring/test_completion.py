"""Completion is read off the rows, whatever a processor writes and in whatever way."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.batches.monitoring.completion import BatchState, decide, poll, recount_batches
from doceval_pipeline.doc_eval.batches import BatchRecord
from doceval_pipeline.doc_eval.lifecycle import TRANSITIONS, Action, Status
from doceval_pipeline.domain.evaluations import WORDS, CellCounts, Outcome
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
RECORD = BatchRecord(
    id=1,
    name="b",
    description="",
    status=Status.STAGED,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    started_at=None,
    completed_at=None,
    metadata={},
    config_sha256=None,
    expected_cells=4,
    failure_reason=None,
    result_digest=None,
    reported_digest=None,
)


def state(status: Status, digest: str | None = None, known: str | None = None, **cells: int) -> BatchState:
    return BatchState(replace(RECORD, status=status, result_digest=known), CellCounts(**cells), digest, 0)


@pytest.mark.parametrize(
    ("counted", "action"),
    [
        (state(Status.STAGED, waiting=4), None),
        (state(Status.STAGED, waiting=2, paused=2), None),
        (state(Status.STAGED, waiting=3, running=1), Action.START_ANALYZING),
        (state(Status.STAGED, waiting=3, unknown=1), Action.START_ANALYZING),
        (state(Status.ANALYZING, waiting=3, succeeded=1), None),
        (state(Status.ANALYZING, "d", succeeded=3, failed=1), Action.COMPLETE),
        (state(Status.STAGED, "d", succeeded=4), Action.COMPLETE),
        (state(Status.ANALYZING, "d", failed=4), Action.FAIL),
        # A row less than expected is not done, whatever the others say.
        (state(Status.ANALYZING, succeeded=3), None),
        (state(Status.ANALYZING, succeeded=3, unknown=1), None),
        (state(Status.COMPLETED, "d", known="d", succeeded=4), None),
        (state(Status.COMPLETED, "e", known="d", succeeded=4), Action.COMPLETE),
        (state(Status.FAILED, "e", known="d", succeeded=1, failed=3), Action.COMPLETE),
        (state(Status.COMPLETED, known="d", succeeded=3, waiting=1), Action.REOPEN),
    ],
)
def test_what_the_rows_say_decides_what_happens(counted: BatchState, action: Action | None) -> None:
    assert decide(counted) is action


@given(
    st.sampled_from([Status.STAGED, Status.ANALYZING, Status.COMPLETED, Status.FAILED]),
    st.fixed_dictionaries({outcome.value: st.integers(0, 3) for outcome in Outcome}),
)
def test_a_batch_is_never_completed_with_a_cell_that_is_missing_or_not_done(
    status: Status, cells: dict[str, int]
) -> None:
    counted = state(status, "d", **cells)
    action = decide(counted)
    if action in (Action.COMPLETE, Action.FAIL):
        assert counted.cells.succeeded + counted.cells.failed == counted.cells.rows >= 4
    if action is not None:
        assert any(old is status and via is action for old, via, _ in TRANSITIONS)


def test_results_by_id_by_task_id_without_times_and_with_score_zero_complete_the_batch(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=2, connections=1, prompts=2)
    batch.stage()
    rows = [row[0] for row in batch.knowledge("SELECT id FROM llm_responses ORDER BY id")]
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 0 WHERE id = :row", row=rows[0])
    batch.knowledge("UPDATE llm_responses SET task_id = 't-1', status = 'P' WHERE id = :row", row=rows[1])
    first = poll(batch.databases)
    assert [(s.cells.succeeded, s.cells.running, s.cells.waiting) for s in first.open] == [(1, 1, 2)]
    assert batch.status() == "ANALYZING"
    batch.knowledge("UPDATE llm_responses SET status = 'F', error_message = 'no' WHERE task_id = 't-1'")
    batch.knowledge("UPDATE llm_responses SET status = 'SUCCESS' WHERE id = :row", row=rows[2])
    batch.knowledge("UPDATE llm_responses SET status = 'TIMEOUT' WHERE id = :row", row=rows[3])
    second = poll(batch.databases)
    assert [s.batch.id for s in second.completed] == [batch.id]
    assert second.reports.keys() == {batch.id}
    assert batch.status() == "COMPLETED"
    assert batch.doc_eval("SELECT processed_documents FROM batches WHERE id = :id") == [(2,)]


@pytest.mark.parametrize(
    ("word", "outcome"), [(w, o) for o, words in WORDS.items() for w in words] + [("?", "unknown")]
)
def test_every_status_word_counts_as_what_it_means(batch_of: BatchOf, word: str, outcome: str) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = :word WHERE id = (SELECT min(id) FROM llm_responses)", word=word
    )
    (found,) = poll(batch.databases).open
    expected = {"waiting": 1} if outcome != "waiting" else {}
    assert found.cells == CellCounts(**{outcome: 2 if outcome == "waiting" else 1, **expected})


def test_a_batch_whose_rows_all_failed_is_failed(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'F'")
    poll(batch.databases)
    assert batch.status() == "FAILED"
    assert batch.doc_eval("SELECT failure_reason FROM batches WHERE id = :id")[0][0].startswith(
        "all 8 evaluations failed"
    )


def test_the_same_result_is_reported_once_and_a_late_change_anew(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'F'")
    first = poll(batch.databases).reports[batch.id]
    batch.knowledge("UPDATE llm_responses SET status = 'FAILED'")
    assert poll(batch.databases).reports == {batch.id: first}, "another word for the same result"
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE id = (SELECT min(id) FROM llm_responses)")
    late = poll(batch.databases)
    assert late.reports[batch.id] != first
    assert [s.batch.id for s in late.completed] == [batch.id]
    assert batch.status() == "COMPLETED"
    assert not poll(batch.databases).completed


def test_a_closed_batch_whose_row_is_queued_again_is_opened_again(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    poll(batch.databases)
    batch.plant("UPDATE llm_responses SET status = 'QUEUED' WHERE id = (SELECT min(id) FROM llm_responses)")
    assert not poll(batch.databases).reports
    assert batch.status() == "STAGED"


def test_deleted_rows_never_complete_a_batch(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    batch.knowledge("DELETE FROM llm_responses WHERE id = (SELECT min(id) FROM llm_responses)")
    assert not poll(batch.databases).completed
    assert batch.status() == "ANALYZING"


def test_every_closed_batch_gets_its_turn_to_be_rechecked(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doceval_pipeline.batches.monitoring.completion.RECHECKED_CELLS", 1)
    batches = [batch_of(documents=1, name=f"batch {number}x") for number in range(3)]
    for batch in batches:
        batch.stage()
    batches[0].knowledge("UPDATE llm_responses SET status = 'F'")
    first = poll(batches[0].databases)
    assert len(first.completed) == 3
    # A processor that gets through after all.
    batches[0].knowledge("UPDATE llm_responses SET status = 'S' WHERE status = 'F'")
    changed, version = [], first.version
    for _ in range(3):
        found = poll(batches[0].databases, version)
        changed.append([s.batch.id for s in found.completed])
        version = found.version
    assert sorted(changed) == [[batch.id] for batch in batches]
    assert not poll(batches[0].databases, version).completed


def test_a_closed_batch_is_not_rechecked_because_open_ones_are_older(batch_of: BatchOf) -> None:
    still_open, closed = batch_of(documents=1, name="open"), batch_of(documents=1, name="closed")
    still_open.stage()
    poll(still_open.databases)
    closed.stage()
    closed.knowledge(f"UPDATE llm_responses SET status = 'S' WHERE batch_id = {closed.id}")
    version = poll(closed.databases).version
    assert poll(closed.databases, version).version == version


def test_polls_of_a_database_that_was_restored_continue_from_its_version(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    version = poll(batch.databases).version
    assert poll(batch.databases, version + 1_000).version == version


def test_a_poll_reports_changes_since_the_last_one(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    first = poll(batch.databases)
    assert [state.cells.waiting for state in first.changed] == [8]
    assert not poll(batch.databases, first.version).changed
    assert [state.cells.waiting for state in poll(batch.databases, first.version).open] == [8]
    batch.knowledge("UPDATE llm_responses SET status = 'P' WHERE id = (SELECT min(id) FROM llm_responses)")
    assert [state.cells.running for state in poll(batch.databases, first.version).changed] == [1]


def test_corrupted_counts_never_complete_a_batch_and_never_keep_it_open(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE response_counts SET waiting = 0, succeeded = 4")
    batch.knowledge("DELETE FROM response_deltas")
    assert not poll(batch.databases).completed
    batch.plant("UPDATE llm_responses SET status = 'S'")
    recount_batches(batch.databases, [batch.id])
    assert len(poll(batch.databases).completed) == 1
