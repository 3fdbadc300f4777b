"""A result is kept, and a number in it that nothing can have is not, in both ways of writing."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.checks import judge_quality
from doceval_pipeline.batches.results.report_input import gather
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.knowledge.processing import call, claim

BatchOf = Callable[..., Sample]
COUNTS = ("'-1'", "'-2147483648'")
QUANTITIES = ("'-1'", "'-1e-300'", "'-Infinity'", "'Infinity'", "'NaN'", "'1e11'")
TIMES = ("'infinity'", "'-infinity'", "'4000-01-01 BC'", "'200000-01-01'", "'1969-12-31 23:59:59Z'")
IMPOSSIBLE = {
    "input_tokens": COUNTS,
    "output_tokens": COUNTS,
    "response_time_ms": COUNTS,
    "time_taken_seconds": QUANTITIES,
    "tokens_per_second": QUANTITIES,
    "started_processing_at": TIMES,
    "completed_processing_at": TIMES,
    "timestamp": TIMES,
}
EACH = [(column, value) for column, values in IMPOSSIBLE.items() for value in values]


def one_row(batch_of: BatchOf) -> Sample:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    return batch


@pytest.mark.parametrize(("column", "value"), EACH)
def test_a_plain_write_keeps_the_result_and_not_the_impossible_number(
    batch_of: BatchOf, column: str, value: str
) -> None:
    batch = one_row(batch_of)
    batch.knowledge(f"UPDATE llm_responses SET status = 'S', overall_score = 7, \"{column}\" = {value}")
    assert batch.knowledge(
        f'SELECT status, overall_score, "{column}", impossible_numbers FROM llm_responses'
    ) == [("S", 7, None, [column])]
    poll(batch.databases)
    assert judge_quality(batch.databases, batch.id).numbers()["impossible_numbers"] == 1


@pytest.mark.parametrize("how", ["complete", "fail"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("input_tokens", -1),
        ("output_tokens", -2147483648),
        *(("time_taken_seconds", number) for number in (-1.0, math.nan, math.inf, -math.inf, 1e300)),
    ],
)
def test_a_function_keeps_the_result_and_not_the_impossible_number(
    batch_of: BatchOf, how: str, column: str, value: float
) -> None:
    batch = one_row(batch_of)
    (row,) = claim(batch.databases.knowledge)
    arguments: tuple[Any, ...] = (7,) if how == "complete" else ("no",)
    assert call(batch.databases.knowledge, how, row.token, *arguments, **{column: value})[0]
    assert batch.knowledge(
        f"SELECT status, {column}, tokens_per_second, impossible_numbers FROM llm_responses"
    ) == [("S" if how == "complete" else "F", None, None, [column])]


def test_a_number_that_is_written_again_and_possible_is_no_longer_counted(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    batch.knowledge("UPDATE llm_responses SET status = 'F', input_tokens = -1, output_tokens = -1")
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 1, input_tokens = 5")
    assert batch.knowledge("SELECT input_tokens, impossible_numbers FROM llm_responses") == [
        (5, ["output_tokens"])
    ]


def test_a_number_that_was_dropped_before_the_status_was_written_is_counted(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    batch.knowledge("UPDATE llm_responses SET input_tokens = -1")
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 1, output_tokens = 5")
    assert batch.knowledge("SELECT impossible_numbers FROM llm_responses") == [(["input_tokens"],)]


@pytest.mark.parametrize("column", ["overall_score", "time_taken_seconds", "tokens_per_second"])
def test_minus_zero_is_stored_as_zero(batch_of: BatchOf, column: str) -> None:
    batch = one_row(batch_of)
    batch.knowledge(f"UPDATE llm_responses SET status = 'S', {column} = '-0'")
    ((found, dropped),) = batch.knowledge(f"SELECT {column}::text, impossible_numbers FROM llm_responses")
    assert (found, dropped) == ("0", None)


def test_possible_numbers_at_the_edges_are_kept(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    batch.knowledge(
        "UPDATE llm_responses SET status = 'S', overall_score = 0, input_tokens = 0, "
        "output_tokens = 2147483647, response_time_ms = 0, time_taken_seconds = 1e10, "
        "tokens_per_second = 5e-324, started_processing_at = '1970-01-01Z', "
        "completed_processing_at = '9989-12-31Z'"
    )
    assert batch.knowledge(
        "SELECT input_tokens, output_tokens, response_time_ms, time_taken_seconds, tokens_per_second, "
        "started_processing_at IS NOT NULL, completed_processing_at IS NOT NULL, impossible_numbers "
        "FROM llm_responses"
    ) == [(0, 2147483647, 0, 1e10, 5e-324, True, True, None)]


def test_numbers_past_the_guard_are_in_no_sum_of_the_report(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = 'S', overall_score = 7, response_text = 'x', input_tokens = 10, "
        "output_tokens = 20, time_taken_seconds = 2"
    )
    batch.plant(
        "UPDATE llm_responses SET input_tokens = -1000, output_tokens = -1000, time_taken_seconds = 'NaN', "
        "response_time_ms = -5 WHERE id = (SELECT max(id) FROM llm_responses)"
    )
    poll(batch.databases)
    total = gather(batch.databases, batch.id).total
    assert total.input_tokens is not None
    assert total.output_tokens is not None
    assert total.seconds is not None
    assert (total.input_tokens.value, total.output_tokens.value, total.seconds.value) == (10, 20, 2)
    # Nobody dropped them, and nobody says that all is well.
    assert judge_quality(batch.databases, batch.id).numbers()["impossible_numbers"] == 4


def test_a_result_is_kept_also_where_its_row_began_at_an_impossible_time(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    (row,) = claim(batch.databases.knowledge)
    batch.plant("UPDATE llm_responses SET started_processing_at = '-infinity'")
    assert call(batch.databases.knowledge, "complete", row.token, 12)[0]
    assert batch.knowledge("SELECT status, overall_score, impossible_numbers FROM llm_responses") == [
        ("S", 12, ["started_processing_at"])
    ]


def test_minus_zero_past_the_guard_is_read_as_zero(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    batch.plant("UPDATE llm_responses SET status = 'S', overall_score = '-0'")
    assert batch.knowledge("SELECT overall_score::text FROM current_llm_responses") == [("0",)]


def test_a_result_by_a_function_has_only_its_own_record(batch_of: BatchOf) -> None:
    batch = one_row(batch_of)
    batch.knowledge("UPDATE llm_responses SET input_tokens = -1")
    (row,) = claim(batch.databases.knowledge)
    assert call(batch.databases.knowledge, "complete", row.token, 50)[0]
    assert batch.knowledge("SELECT status, impossible_numbers FROM llm_responses") == [("S", None)]
