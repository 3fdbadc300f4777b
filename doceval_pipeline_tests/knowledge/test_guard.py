"""What stands, stands: the guard against every write of a plain processor, word by word."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline import migrations
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.staging.reprocessing import cancel, pause
from doceval_pipeline.domain.evaluations import WORDS, Outcome
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.knowledge.processing import call, claim, claim_and_die

BatchOf = Callable[..., Sample]
OUTCOMES = {word: outcome for outcome, words in WORDS.items() for word in words} | {"HALF": Outcome.UNKNOWN}
DONE = (Outcome.SUCCEEDED, Outcome.FAILED)
# What a processor may write, each with a value that differs from what a row holds.
RESULT_COLUMNS = {
    "status": "'S'",
    "task_id": "'t'",
    "started_processing_at": "now()",
    "completed_processing_at": "now()",
    "response_text": "'other'",
    "response_json": "'{}'",
    "response_time_ms": "1",
    "error_message": "'other'",
    "overall_score": "1",
    "input_tokens": "1",
    "output_tokens": "1",
    "time_taken_seconds": "1",
    "tokens_per_second": "1",
    '"timestamp"': "now()",
}
ROW = "SELECT r::text FROM llm_responses r"


def one_row(batch_of: BatchOf) -> Sample:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    return batch


def rows_updated(batch: Sample, statement: str, **parameters: Any) -> int:
    with batch.databases.knowledge.begin() as connection:
        return connection.execute(text(statement), parameters).rowcount


@pytest.mark.parametrize("before", OUTCOMES)
def test_the_first_result_stands_except_that_success_follows_failure(batch_of: BatchOf, before: str) -> None:
    batch = one_row(batch_of)
    for after in OUTCOMES:
        batch.plant(f"UPDATE llm_responses SET status = '{before}', overall_score = NULL")
        updated = rows_updated(
            batch, "UPDATE llm_responses SET status = :after, overall_score = 7", after=after
        )
        assert updated == 1, "a processor that counts rows goes on"
        allowed = OUTCOMES[before] not in DONE or (OUTCOMES[before], OUTCOMES[after]) == DONE[::-1]
        expected = (after, 7) if allowed else (before, None)
        assert batch.knowledge("SELECT status, overall_score FROM llm_responses") == [expected], after


def test_success_after_failure_comes_with_its_columns(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    batch.knowledge("UPDATE llm_responses SET status = 'TIMEOUT', error_message = 'slow'")
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 7, error_message = NULL")
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 8")
    assert batch.knowledge("SELECT status, overall_score, error_message FROM llm_responses") == [
        ("S", 7, None)
    ]


def test_what_returning_gives_is_what_stands(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 7")
    assert batch.knowledge(
        "UPDATE llm_responses SET status = 'F', overall_score = NULL RETURNING status, overall_score"
    ) == [("S", 7)]


@pytest.mark.parametrize("column", RESULT_COLUMNS)
def test_no_column_of_a_result_or_of_a_leased_row_can_be_written(batch_of: BatchOf, column: str) -> None:
    batch = one_row(batch_of)
    statement = f"UPDATE llm_responses SET {column} = {RESULT_COLUMNS[column]}"
    (row,) = claim(batch.databases.knowledge)
    leased = batch.knowledge(ROW)
    assert rows_updated(batch, statement) == 1
    assert batch.knowledge(ROW) == leased
    call(batch.databases.knowledge, "complete", row.token, 50, response_text="mine")
    result = batch.knowledge(ROW)
    assert result != leased
    assert rows_updated(batch, statement) == 1
    assert batch.knowledge(ROW) == result


def test_a_leased_row_cannot_be_written_around_by_task_id_or_in_many_words(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    batch.knowledge("UPDATE llm_responses SET task_id = 'mine'")
    (row,) = claim(batch.databases.knowledge)
    before = batch.knowledge(ROW)
    for word in OUTCOMES:
        batch.knowledge("UPDATE llm_responses SET status = :word WHERE task_id = 'mine'", word=word)
    assert batch.knowledge(ROW) == before
    assert call(batch.databases.knowledge, "complete", row.token)[0]


def test_setting_a_document_aside_is_no_write_of_a_processor(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    claim(batch.databases.knowledge)
    batch.knowledge("UPDATE llm_responses SET withdrawn_at = now()")
    assert batch.knowledge("SELECT withdrawn_at IS NOT NULL, status FROM llm_responses") == [(True, "P")]


def test_a_result_of_a_plain_write_after_the_lease_counts_once(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    (row,) = claim_and_die(batch.databases.knowledge)
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 7 WHERE id = :row", row=row.id)
    poll(batch.databases)
    assert batch.status() == "COMPLETED"
    assert batch.knowledge("SELECT overall_score, lease_expires_at FROM llm_responses") == [(7, None)]
    assert not call(batch.databases.knowledge, "complete", row.token)[0]


def test_a_sign_of_life_after_the_lease_does_not_keep_the_row_from_the_queue(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    (row,) = claim_and_die(batch.databases.knowledge)
    batch.knowledge("UPDATE llm_responses SET status = 'P', task_id = 'alive' WHERE id = :row", row=row.id)
    assert [again.id for again in claim(batch.databases.knowledge)] == [row.id]


def test_a_row_that_a_plain_processor_gives_back_waits_again(batch_of: BatchOf) -> None:
    batch = batch_of(documents=6, connections=1, prompts=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'P' WHERE id = (SELECT min(id) FROM llm_responses)")
    claim(batch.databases.knowledge, 3)
    batch.knowledge("UPDATE llm_responses SET status = 'READY_TO_RETRY' WHERE lease_expires_at IS NULL "
                    "AND status = 'P'")  # fmt: skip
    assert len(claim(batch.databases.knowledge, 3)) == 3


@pytest.mark.parametrize(
    ("action", "word", "line"),
    [
        (pause, "PAUSED", None),
        (cancel, "F", "the batch was cancelled, and its processor gave the row back"),
    ],
)
def test_a_row_that_goes_back_is_held_or_closed_with_its_batch(
    batch_of: BatchOf, action: Callable[..., int], word: str, line: str | None
) -> None:
    batch = batch_of(documents=3, connections=1, prompts=1)
    batch.stage()
    plain = "(SELECT min(id) FROM llm_responses)"
    batch.knowledge(f"UPDATE llm_responses SET status = 'P' WHERE id = {plain}")
    (leased,) = claim_and_die(batch.databases.knowledge)
    action(batch.databases, batch.id)
    batch.knowledge(f"UPDATE llm_responses SET status = 'READY_TO_RETRY' WHERE id = {plain}")
    poll(batch.databases)
    assert batch.knowledge("SELECT DISTINCT status FROM llm_responses") == [(word,)]
    assert batch.knowledge(f"SELECT error_message FROM llm_responses WHERE id = {plain}") == [(line,)]
    if line is not None:
        assert batch.knowledge("SELECT error_message FROM llm_responses WHERE id = :row", row=leased.id) == [
            ("the batch was cancelled, and the delivery ended with its lease, without a result",)
        ]


def test_the_words_in_the_database_are_those_of_the_program() -> None:
    kinds = {frozenset(words) for words in WORDS.values()}
    kinds.add(frozenset(WORDS[Outcome.SUCCEEDED] + WORDS[Outcome.FAILED]))
    folder = Path(migrations.__file__).parent / "knowledge" / "versions"
    lists = [
        frozenset(re.findall(r"'(\w+)'", words))
        for file in folder.glob("0003_*.sql")
        for words in re.findall(r"status (?:NOT )?IN \(([^)]+)\)", file.read_text())
    ]
    assert len(lists) > 10
    assert set(lists) <= kinds
