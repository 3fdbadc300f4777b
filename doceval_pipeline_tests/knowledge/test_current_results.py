"""The sums of current results, compared with the same sums made by PostgreSQL in several passes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from doceval_pipeline.domain.current_results import decimal_sum
from doceval_pipeline.domain.evaluations import WORDS, Outcome
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, has_outcome_sql, outcome_sql
from doceval_pipeline.knowledge.scores import read_current_results
from doceval_pipeline.knowledge.usage import SECONDS_SQL
from doceval_pipeline_tests.conftest import Sample

WORDS_USED = [word for words in WORDS.values() for word in words]
SUCCEEDED = has_outcome_sql(Outcome.SUCCEEDED)
FINISHED = f"{has_outcome_sql(Outcome.SUCCEEDED, Outcome.FAILED)} AND reused_from IS NULL"
PLANT = text("""
    INSERT INTO llm_responses (batch_id, document_id, connection_id, prompt_id, attempt, status,
                               connection_details, overall_score, task_id, input_tokens, output_tokens,
                               time_taken_seconds, response_time_ms, reused_from, reused_batch_id)
    VALUES (:batch_id, :document, :connection, :prompt, :attempt, :status, '{}', :score,
            CASE WHEN :simulated THEN 'simulated-1' END, :input, :output, :seconds, :milliseconds, :reused,
            :reused_batch)
""")
SUMS = text(f"""
    SELECT connection_id, prompt_id,
           {", ".join(f"count(*) FILTER (WHERE {outcome_sql()} = '{o}') AS {o}" for o in Outcome)},
           count(reused_from) AS reused, count(*) FILTER (WHERE {SIMULATED_SQL}) AS simulated,
           count(*) FILTER (WHERE attempt > 1) AS again,
           count(overall_score) FILTER (WHERE {SUCCEEDED}) AS scored,
           sum(overall_score::numeric) FILTER (WHERE {SUCCEEDED}) AS scores,
           min(overall_score) FILTER (WHERE {SUCCEEDED}) AS minimum,
           max(overall_score) FILTER (WHERE {SUCCEEDED}) AS maximum,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY overall_score) FILTER (WHERE {SUCCEEDED}) AS median,
           array_agg(width_bucket(overall_score, '{{10,20,30,40,50,60,70,80,90}}'::float8[]))
               FILTER (WHERE {SUCCEEDED} AND overall_score IS NOT NULL) AS bins,
           count(input_tokens) FILTER (WHERE reused_from IS NULL) AS input_cells,
           sum(input_tokens) FILTER (WHERE reused_from IS NULL) AS input_tokens,
           count(output_tokens) FILTER (WHERE reused_from IS NULL) AS output_cells,
           sum(output_tokens) FILTER (WHERE reused_from IS NULL) AS output_tokens,
           count({SECONDS_SQL}) FILTER (WHERE reused_from IS NULL) AS timed,
           sum(({SECONDS_SQL})::numeric) FILTER (WHERE reused_from IS NULL) AS seconds
    FROM current_llm_responses WHERE batch_id = :batch_id
    GROUP BY GROUPING SETS ((), (connection_id, prompt_id)) HAVING count(*) > 0
""")
TOKENS = text(f"""
    SELECT connection_id, prompt_id, input_tokens IS NOT NULL AS has_input,
           output_tokens IS NOT NULL AS has_output, count(*) AS cells,
           coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens
    FROM current_llm_responses WHERE batch_id = :batch_id AND {FINISHED}
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
""")
PERCENTILES = f"percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY {SECONDS_SQL})"
TIMES = text(f"""
    SELECT connection_id, prompt_id, count(*) AS n, {PERCENTILES} AS percentiles
    FROM current_llm_responses
    WHERE batch_id = :batch_id AND {FINISHED} AND {SUCCEEDED} AND {SECONDS_SQL} IS NOT NULL GROUP BY 1, 2
    UNION ALL
    SELECT NULL, NULL, count(*), {PERCENTILES}
    FROM current_llm_responses WHERE batch_id = :batch_id AND {FINISHED} AND {SECONDS_SQL} IS NOT NULL
    HAVING count(*) > 0
""")


@st.composite
def a_row(draw: st.DrawFn) -> dict[str, Any]:
    tokens = st.none() | st.integers(-5, 2**31 - 1)
    reused = draw(st.none() | st.just(7))
    seconds = st.none() | st.sampled_from([0.1, 0.2, -1.0, math.inf, math.nan]) | st.floats(0, 1e11)
    return {
        "document": draw(st.integers(1, 6)),
        "connection": draw(st.sampled_from([1, 2, 70_000])),
        "prompt": draw(st.integers(1, 2)),
        "attempt": draw(st.integers(1, 3)),
        "status": draw(st.sampled_from(["S", "F", "ODD", *WORDS_USED])) if reused is None else "S",
        "score": draw(
            st.sampled_from([0.0, 0.1, 66.6, 10.0, 100.0])
            | st.floats(0, 100)
            | (st.none() if reused is None else st.just(5.0))
        ),
        "simulated": draw(st.booleans()),
        "input": draw(tokens) if reused is None else None,
        "output": draw(tokens) if reused is None else None,
        "seconds": draw(seconds) if reused is None else None,
        "milliseconds": draw(st.none() | st.integers(-1, 2**31 - 1)) if reused is None else None,
        "reused": reused,
        "reused_batch": None if reused is None else draw(st.integers(0, 1)),
    }


ROWS = st.lists(
    a_row(), unique_by=lambda row: (row["document"], row["connection"], row["prompt"]), max_size=25
)


@pytest.fixture
def batch(batch_of: Callable[..., Sample]) -> Sample:
    return batch_of(documents=1)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=ROWS)
def test_one_pass_finds_the_sums_of_separate_statements(batch: Sample, rows: list[dict[str, Any]]) -> None:
    batch.plant("DELETE FROM llm_responses")
    with batch.databases.knowledge.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for row in rows:
            connection.execute(PLANT, {**row, "batch_id": batch.id})
    with batch.databases.knowledge.connect() as connection:
        found = read_current_results(connection, batch.id)
        expected = connection.execute(SUMS, {"batch_id": batch.id}).all()
        tokens = [tuple(row) for row in connection.execute(TOKENS, {"batch_id": batch.id})]
        times = {
            None if row.n is None or row.connection_id is None else (row.connection_id, row.prompt_id): row
            for row in connection.execute(TIMES, {"batch_id": batch.id})
        }
    assert found.total.cells.rows == len(rows)
    assert set(found.columns) == {(row["connection"], row["prompt"]) for row in rows}
    for sums in expected:
        column = sums.connection_id, sums.prompt_id
        check_sums(found.total if sums.connection_id is None else found.columns[column], sums)
    assert [
        (t.connection_id, t.prompt_id, t.has_input, t.has_output, t.cells, t.input_tokens, t.output_tokens)
        for t in found.tokens
    ] == tokens
    assert {column: (time.n, time.p50, time.p95) for column, time in found.times.items()} == {
        column: (row.n, *row.percentiles) for column, row in times.items()
    }


def check_sums(found: Any, row: Any) -> None:
    assert found.cells.outcomes == {str(outcome): getattr(row, outcome) for outcome in Outcome}
    assert (found.cells.reused, found.simulated, found.reprocessed) == (row.reused, row.simulated, row.again)
    for total, cells, value in (
        (found.input_tokens, row.input_cells, row.input_tokens),
        (found.output_tokens, row.output_cells, row.output_tokens),
    ):
        assert (total and (total.cells, total.value)) == ((cells, value) if cells else None)
    assert (found.seconds is None) == (row.timed == 0)
    if found.seconds:
        assert found.seconds.cells == row.timed
        assert found.seconds.value == pytest.approx(float(row.seconds), rel=1e-14)
    scores = found.scores
    assert (scores is None) == (row.scored == 0)
    if scores:
        assert (scores.n, scores.minimum, scores.maximum) == (row.scored, row.minimum, row.maximum)
        assert scores.mean == pytest.approx(float(row.scores) / row.scored, rel=1e-14)
        assert scores.median == pytest.approx(row.median, rel=1e-15)
        assert scores.histogram == tuple(row.bins.count(number) for number in range(10))


@given(st.lists(st.decimals(0, 100, places=3), max_size=40))
def test_decimals_are_added_up_as_they_are_written(values: list[Any]) -> None:
    assert decimal_sum(np.array([float(value) for value in values])) == float(sum(values))


@given(st.lists(st.floats(0, 1e10), max_size=40))
def test_other_numbers_are_added_up_without_rounding_errors(values: list[float]) -> None:
    assert decimal_sum(np.array(values)) == pytest.approx(math.fsum(values), rel=4e-15)
