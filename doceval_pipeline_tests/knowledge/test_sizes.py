"""What processors write is bounded, and what was larger before can still be read and changed."""

from collections.abc import Callable

import pytest
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.report_input import gather
from doceval_pipeline.knowledge.export_rows import LARGEST_TEXT
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
MOST = {
    "response_text": LARGEST_TEXT,
    "response_json": LARGEST_TEXT,
    "error_message": LARGEST_TEXT,
    "task_id": 2_000,
    "status": 200,
}


def one_row(batch_of: BatchOf) -> Sample:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    return batch


@pytest.mark.parametrize("column", MOST)
def test_a_plain_write_of_too_much_is_refused_with_the_column_and_both_sizes(
    batch_of: BatchOf, column: str
) -> None:
    batch, most = one_row(batch_of), MOST[column]
    # Of two bytes each: the bound is one of bytes.
    write = f"UPDATE llm_responses SET {column} = repeat('ü', :characters)"
    with pytest.raises(
        DBAPIError, match=f"{column} has {most + 2} bytes, and at most {most} are stored: shorten it"
    ):
        batch.knowledge(write, characters=most // 2 + 1)
    batch.knowledge(write, characters=most // 2)
    assert batch.knowledge(f"SELECT octet_length({column}) FROM llm_responses") == [(most,)]


@pytest.mark.parametrize(
    "call",
    [
        "complete_response(:token, 1, repeat('x', {size}))",
        "complete_response(:token, 1, 'short', repeat('x', {size}))",
        "fail_response(:token, repeat('x', {size}))",
        "fail_response(:token, 'short', false, repeat('x', {size}))",
        "fail_response(:token, 'short', false, NULL, repeat('x', {size}))",
    ],
)
def test_a_function_refuses_too_much_and_the_lease_lasts(batch_of: BatchOf, call: str) -> None:
    batch = one_row(batch_of)
    token = batch.knowledge("SELECT token FROM claim_responses(1)")[0][0]
    with pytest.raises(DBAPIError, match=rf"has {LARGEST_TEXT + 1} bytes, and at most {LARGEST_TEXT} are"):
        batch.knowledge("SELECT changed FROM " + call.format(size=LARGEST_TEXT + 1), token=token)
    assert batch.knowledge("SELECT status FROM llm_responses") == [("P",)]
    assert batch.knowledge("SELECT changed FROM " + call.format(size=10), token=token) == [(True,)]


def test_what_is_larger_and_came_past_the_bound_does_not_keep_the_batch_from_its_report(
    batch_of: BatchOf,
) -> None:
    batch = one_row(batch_of)
    bound = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'llm_responses_sizes'"
    ((constraint,),) = batch.knowledge(bound)
    batch.knowledge("ALTER TABLE llm_responses DROP CONSTRAINT llm_responses_sizes")
    try:
        batch.plant(
            "UPDATE llm_responses SET status = 'S', overall_score = 5, response_text = repeat('x', :size)",
            size=LARGEST_TEXT + 1,
        )
        # Its other columns can be written as ever.
        batch.knowledge("UPDATE llm_responses SET withdrawn_at = NULL, superseded_at = NULL")
        shown = batch.knowledge("SELECT response_text FROM current_llm_responses")[0][0]
        assert shown.endswith(f"xxx\n(the first 100000 characters of {LARGEST_TEXT + 1} bytes)")
        batch.knowledge("SELECT recount_responses(:id)")
        poll(batch.databases)
        assert batch.status() == "COMPLETED"
        assert gather(batch.databases, batch.id)
    finally:
        batch.plant("DELETE FROM llm_responses")
        batch.knowledge(f"ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_sizes {constraint}")
