"""Sums the current results of the batches of a series, by batch and by question. Changes nothing.

A reused result counts as a score, but not as new evidence, time or tokens.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.series import ChangedScore, ColumnSums, ContentChange, ScoreBin
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, has_outcome_sql, valid_score_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL

_SUCCEEDED = has_outcome_sql(Outcome.SUCCEEDED)
_FAILED = has_outcome_sql(Outcome.FAILED)
# An impossible score, such as NaN, counts as missing.
_SCORE = valid_score_sql()
# One pass over all rows. Sums are numeric, so that they do not depend on the order of the rows.
_COLUMN_SUMS = text(f"""
    SELECT batch_id, connection_id, prompt_id, reused_from IS NOT NULL AS reused,
           input_tokens IS NOT NULL AS has_input, output_tokens IS NOT NULL AS has_output, count(*) AS cells,
           count(*) FILTER (WHERE {_SUCCEEDED}) AS succeeded, count(*) FILTER (WHERE {_FAILED}) AS failed,
           count(*) FILTER (WHERE {SIMULATED_SQL}) AS simulated, count({_SCORE}) AS scored,
           coalesce(sum(({_SCORE})::numeric), 0)::float8 AS scores,
           sum(({SECONDS_SQL})::numeric)::float8 AS seconds,
           coalesce(sum(input_tokens) FILTER (WHERE {_SUCCEEDED} OR {_FAILED}), 0) AS input_tokens,
           coalesce(sum(output_tokens) FILTER (WHERE {_SUCCEEDED} OR {_FAILED}), 0) AS output_tokens
    FROM current_llm_responses WHERE batch_id = ANY(CAST(:batch_ids AS int[]))
    GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
""")
# Each result with the latest earlier one of the same question and document in the series. Scores are counted
# by whole points: at most 101 rows per column and batch, for any number of results.
_SCORE_BINS = text(f"""
    WITH occurrence AS MATERIALIZED (
        SELECT batch_id, place FROM unnest(CAST(:batch_ids AS int[])) WITH ORDINALITY AS o(batch_id, place)),
    question AS MATERIALIZED (
        SELECT o.batch_id, o.place, q.connection_id, q.prompt_id,
               dense_rank() OVER (ORDER BY q.digest)::int AS question
        FROM occurrence o JOIN batch_questions q ON q.batch_id = o.batch_id),
    score AS (
        SELECT q.batch_id, q.place, q.connection_id, q.prompt_id, q.question, r.document_id,
               ({_SCORE})::numeric AS score
        FROM question q JOIN current_llm_responses r
            ON r.batch_id = q.batch_id AND r.connection_id = q.connection_id AND r.prompt_id = q.prompt_id
        WHERE r.reused_from IS NULL),
    paired AS (
        SELECT batch_id, connection_id, prompt_id, question, score,
               lag(score) OVER (PARTITION BY document_id, connection_id, prompt_id, question ORDER BY place)
                   AS earlier
        FROM score WHERE score IS NOT NULL)
    SELECT batch_id, connection_id, prompt_id, question, round(score)::int AS points,
           count(*) AS asked, sum(score)::float8 AS asked_total,
           count(*) FILTER (WHERE earlier IS NULL) AS new,
           coalesce(sum(score) FILTER (WHERE earlier IS NULL), 0)::float8 AS new_total,
           count(earlier) AS pairs, coalesce(sum(score - earlier), 0)::float8 AS moved,
           coalesce(sum((score - earlier) * (score - earlier)), 0)::float8 AS moved_squared
    FROM paired GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
""")
_CHANGED_SCORES = text(f"""
    WITH change AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:batches_before AS int[]), CAST(:documents_before AS bigint[]),
                             CAST(:batches AS int[]), CAST(:documents AS bigint[])) WITH ORDINALITY
            AS c(batch_before, document_before, batch_id, document_id, place))
    SELECT c.place::int AS place, now.connection_id, now.prompt_id,
           before.score AS before, now.score AS after,
           before.digest IS DISTINCT FROM now.digest AS is_other_question
    FROM change c
    JOIN LATERAL (
        SELECT r.connection_id, r.prompt_id, q.digest, {_SCORE} AS score
        FROM current_llm_responses r LEFT JOIN batch_questions q USING (batch_id, connection_id, prompt_id)
        WHERE r.batch_id = c.batch_id AND r.document_id = c.document_id) AS now ON true
    JOIN LATERAL (
        SELECT q.digest, {_SCORE} AS score
        FROM current_llm_responses r LEFT JOIN batch_questions q USING (batch_id, connection_id, prompt_id)
        WHERE r.batch_id = c.batch_before AND r.document_id = c.document_before
          AND r.connection_id = now.connection_id AND r.prompt_id = now.prompt_id) AS before ON true
    ORDER BY c.place, now.connection_id, now.prompt_id
""")


def sum_columns_of_batches(connection: Connection, batch_ids: Sequence[int]) -> list[ColumnSums]:
    """Sum all current results of the given batches."""
    rows = connection.execute(_COLUMN_SUMS, {"batch_ids": arrays.of_numbers(batch_ids)})
    return [ColumnSums(**row._mapping) for row in rows]


def score_bins(connection: Connection, batch_ids: Sequence[int]) -> list[ScoreBin]:
    """Count new scores by whole points, with their differences to earlier scores of question and document.

    Parameters
    ----------
    batch_ids
        The batches of a series, oldest first.
    """
    rows = connection.execute(_SCORE_BINS, {"batch_ids": arrays.of_numbers(batch_ids)})
    return [ScoreBin(**row._mapping) for row in rows]


def changed_scores(connection: Connection, changes: Sequence[ContentChange]) -> list[ChangedScore]:
    """The scores before and after each change, in every column that both batches have."""
    values = {
        "batches_before": arrays.of_numbers([change.batch_id_before for change in changes]),
        "documents_before": arrays.of_numbers([change.document_id_before for change in changes]),
        "batches": arrays.of_numbers([change.batch_id for change in changes]),
        "documents": arrays.of_numbers([change.document_id for change in changes]),
    }
    return [
        ChangedScore(
            content=changes[row.place - 1],
            column=(row.connection_id, row.prompt_id),
            before=row.before,
            after=row.after,
            is_other_question=row.is_other_question,
        )
        for row in connection.execute(_CHANGED_SCORES, values)
    ]
