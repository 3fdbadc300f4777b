"""Reads the results of a batch for its report: sums, changes, and the results of single documents.

PostgreSQL aggregates all rows; single rows are read only if a page shows them. Everything
reads `current_llm_responses`, the latest attempt of each evaluation.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.completed_results import CompletedColumn, CompletedResults
from doceval_pipeline.domain.evaluations import CellCounts, Outcome
from doceval_pipeline.domain.results import (
    CellDetails,
    ReportCell,
    ResultChange,
    ResultSums,
    ScoreSummary,
    Total,
)
from doceval_pipeline.domain.usage import TokenUsage
from doceval_pipeline.knowledge.digests import RESULT_DIGEST
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, has_outcome_sql, outcome_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL

# Bins of equal width from 0 to 100; 100 itself is in the last.
HISTOGRAM_BINS = 10
# Characters of a message and of a response. Messages that differ only later count as equal.
MESSAGE_CHARACTERS = 2_000
RESPONSE_CHARACTERS = 2_000
# Read beyond them, so that a key on the border is recognised before it is cut.
KEY_CHARACTERS = 1_000
TITLE_CHARACTERS = 300

_FAILED = has_outcome_sql(Outcome.FAILED)
_SUCCEEDED = has_outcome_sql(Outcome.SUCCEEDED)
_ASKED = f"({has_outcome_sql(Outcome.SUCCEEDED, Outcome.FAILED)} AND reused_from IS NULL)"

# Scores are compared with edges: a division fails on the smallest scores.
_EDGES = f"{{{', '.join(str(100 * bin / HISTOGRAM_BINS) for bin in range(1, HISTOGRAM_BINS))}}}"
# Sums are numeric, so that they do not depend on the order of the rows.
_TERMS = f"""
    SELECT connection_id, prompt_id, attempt, {outcome_sql()} AS outcome, {SIMULATED_SQL} AS simulated,
           CASE WHEN {_SUCCEEDED} THEN overall_score END AS score,
           CASE WHEN reused_from IS NULL THEN input_tokens END AS input_tokens,
           CASE WHEN reused_from IS NULL THEN output_tokens END AS output_tokens,
           CASE WHEN reused_from IS NULL THEN {SECONDS_SQL} END AS seconds, reused_from
    FROM current_llm_responses WHERE batch_id = :batch_id
"""
_PARTS = f"""
    SELECT connection_id, prompt_id, outcome,
           width_bucket(score, CAST('{_EDGES}' AS float8[])) AS bin,
           count(*) AS cells, count(*) FILTER (WHERE simulated) AS simulated,
           count(*) FILTER (WHERE attempt > 1) AS again, count(reused_from) AS reused,
           count(score) AS scored, sum(score::numeric) AS scores, min(score) AS least, max(score) AS most,
           count(input_tokens) AS input_cells, sum(input_tokens) AS input_tokens,
           count(output_tokens) AS output_cells, sum(output_tokens) AS output_tokens,
           count(seconds) AS timed, sum(seconds::numeric) AS seconds
    FROM ({_TERMS}) AS terms
    GROUP BY 1, 2, 3, 4
"""
_OUTCOMES = ", ".join(
    f"coalesce(sum(cells) FILTER (WHERE outcome = '{outcome}'), 0)::bigint AS {outcome}"
    for outcome in Outcome
)
_BINS = ", ".join(
    f"coalesce(sum(scored) FILTER (WHERE bin = {bin}), 0)::bigint" for bin in range(HISTOGRAM_BINS)
)
_SUMS = text(f"""
    SELECT connection_id, prompt_id, {_OUTCOMES}, coalesce(sum(reused), 0)::bigint AS reused,
           ARRAY[{_BINS}] AS histogram, coalesce(sum(scored), 0)::bigint AS scored, sum(scores) AS scores,
           min(least) AS minimum, max(most) AS maximum,
           coalesce(sum(input_cells), 0)::bigint AS input_cells, sum(input_tokens) AS input_tokens,
           coalesce(sum(output_cells), 0)::bigint AS output_cells, sum(output_tokens) AS output_tokens,
           coalesce(sum(timed), 0)::bigint AS timed, sum(seconds) AS seconds,
           coalesce(sum(simulated), 0)::bigint AS simulated, coalesce(sum(again), 0)::bigint AS reprocessed
    FROM ({_PARTS}) AS parts
    GROUP BY GROUPING SETS ((), (connection_id, prompt_id))
""")
_CHANGES = text(f"""
    SELECT now.document_id, now.connection_id, now.prompt_id, now.attempt,
           {outcome_sql("before.status")} AS outcome_before,
           CASE WHEN {has_outcome_sql(Outcome.SUCCEEDED, status="before.status")}
                THEN before.overall_score END AS score_before,
           {outcome_sql("now.status")} AS outcome,
           CASE WHEN {has_outcome_sql(Outcome.SUCCEEDED, status="now.status")}
                THEN now.overall_score END AS score
    FROM current_llm_responses AS now
    JOIN llm_responses AS before USING (batch_id, document_id, prompt_id, connection_id)
    WHERE batch_id = :batch_id AND now.attempt > 1 AND before.attempt = now.attempt - 1
    ORDER BY 1, 2, 3 LIMIT :limit
""")
# Documents with an evaluation that did not succeed: those with a failure before those that are not done.
_URGENT = text(f"""
    SELECT document_id FROM current_llm_responses WHERE batch_id = :batch_id AND NOT ({_SUCCEEDED})
    GROUP BY 1 ORDER BY bool_or({_FAILED}) DESC, 1 LIMIT :limit
""")
_UNLISTED = text("""
    SELECT document_id, count(*) OVER () AS documents FROM current_llm_responses
    WHERE batch_id = :batch_id
      AND (document_id IN (SELECT unnest(CAST(:listed AS bigint[])))) IS NOT TRUE
    GROUP BY 1 ORDER BY 1 LIMIT :limit
""")
_CELLS = text(f"""
    SELECT id, document_id, connection_id, prompt_id, {outcome_sql()} AS outcome, status,
           overall_score AS score, left(error_message, {TITLE_CHARACTERS + 1}) AS message,
           {SIMULATED_SQL} AS simulated,
           {_SUCCEEDED} OR {_FAILED} OR error_message IS NOT NULL OR response_text IS NOT NULL AS has_details,
           reused_batch_id
    FROM current_llm_responses
    JOIN unnest(CAST(:documents AS bigint[])) WITH ORDINALITY AS shown(document_id, place) USING (document_id)
    WHERE batch_id = :batch_id ORDER BY {_FAILED} DESC, place, connection_id, prompt_id
""")
_DETAILS = text(f"""
    SELECT id, attempt, left(error_message, {MESSAGE_CHARACTERS + KEY_CHARACTERS}) AS message,
           coalesce(length(error_message), 0) AS message_characters,
           left(response_text, {RESPONSE_CHARACTERS + KEY_CHARACTERS}) AS response,
           coalesce(length(response_text), 0) AS response_characters, input_tokens, output_tokens,
           {SECONDS_SQL} AS seconds
    FROM current_llm_responses WHERE id = ANY(:ids)
""")
# One statement, so that the figures are those of exactly the rows that the digest covers.
_COMPLETED = text(f"""
    SELECT batch_id, {RESULT_DIGEST} AS digest, count(*) FILTER (WHERE {_SUCCEEDED}) AS succeeded,
           count(*) FILTER (WHERE {_FAILED}) AS failed, count(*) FILTER (WHERE {SIMULATED_SQL}) AS simulated,
           count(reused_from) AS reused, count(overall_score) FILTER (WHERE {_SUCCEEDED}) AS scored,
           (avg(overall_score::numeric) FILTER (WHERE {_SUCCEEDED}))::float8 AS mean_score
    FROM current_llm_responses WHERE batch_id = ANY(:batch_ids) GROUP BY batch_id
""")
# One row per column and kind of usage; `asked` evaluations are finished, and not reused.
_COMPLETED_COLUMNS = text(f"""
    SELECT batch_id, connection_id, prompt_id, {_ASKED} AS asked, input_tokens IS NOT NULL AS has_input,
           output_tokens IS NOT NULL AS has_output, count(*) AS cells,
           count(*) FILTER (WHERE {_SUCCEEDED}) AS succeeded, count(*) FILTER (WHERE {_FAILED}) AS failed,
           count(*) FILTER (WHERE {SIMULATED_SQL}) AS simulated, count(reused_from) AS reused,
           count(overall_score) FILTER (WHERE {_SUCCEEDED}) AS scored,
           coalesce(sum(overall_score::numeric) FILTER (WHERE {_SUCCEEDED}), 0) AS scores,
           count(*) FILTER (WHERE {_SUCCEEDED} AND overall_score < threshold) AS below,
           coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens
    FROM current_llm_responses
    LEFT JOIN unnest(CAST(:prompt_ids AS int[]), CAST(:thresholds AS float8[]))
        AS criteria(prompt_id, threshold) USING (prompt_id)
    WHERE batch_id = ANY(CAST(:batch_ids AS int[]))
    GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
""")


def sum_results(
    connection: Connection, batch_id: int, medians: Mapping[Column | None, float | None]
) -> tuple[ResultSums, dict[Column, ResultSums]]:
    """The sums over all current results of a batch, and those of each column that has rows.

    Parameters
    ----------
    medians
        The median score of each column with rows and, under None, of all: PostgreSQL would sort for them.
    """
    total: ResultSums | None = None
    columns: dict[Column, ResultSums] = {}
    for row in connection.execute(_SUMS, {"batch_id": batch_id}):
        if row.connection_id is None:
            total = _result_sums(row, medians[None])
        else:
            column = row.connection_id, row.prompt_id
            columns[column] = _result_sums(row, medians[column])
    return total or ResultSums(CellCounts()), columns


def read_changes(connection: Connection, batch_id: int, limit: int) -> list[ResultChange]:
    """The first reprocessed evaluations, ordered by document, connection and prompt."""
    rows = connection.execute(_CHANGES, {"batch_id": batch_id, "limit": limit})
    return [ResultChange(**row._mapping) for row in rows]


def urgent_documents(connection: Connection, batch_id: int, limit: int) -> list[int]:
    """Documents with failed evaluations, then those with unfinished ones."""
    return list(connection.scalars(_URGENT, {"batch_id": batch_id, "limit": limit}))


def unlisted_documents(
    connection: Connection, batch_id: int, listed: Sequence[int], limit: int
) -> tuple[list[int], int]:
    """The first documents with rows that `listed` lacks, and the number of all of them."""
    parameters = {"batch_id": batch_id, "listed": list(listed), "limit": limit}
    rows = connection.execute(_UNLISTED, parameters).all()
    return [row.document_id for row in rows], rows[0].documents if rows else 0


def read_cells(connection: Connection, batch_id: int, documents: Sequence[int]) -> dict[int, ReportCell]:
    """The current results of the given documents without details, by the id of their queue row.

    Failures come first; then the order is that of `documents`.
    """
    rows = connection.execute(_CELLS, {"batch_id": batch_id, "documents": list(documents)})
    return {
        row.id: ReportCell(
            document_id=row.document_id,
            connection_id=row.connection_id,
            prompt_id=row.prompt_id,
            outcome=row.outcome,
            status=row.status,
            score=row.score,
            message=row.message,
            simulated=row.simulated,
            has_details=row.has_details,
            reused_batch_id=row.reused_batch_id,
        )
        for row in rows
    }


def read_details(connection: Connection, ids: Sequence[int]) -> dict[int, CellDetails]:
    """The texts and figures of results, by the id of their queue row.

    Texts are cut `KEY_CHARACTERS` later than they are shown; lengths are those of the whole texts.
    """
    return {
        row.id: CellDetails(
            attempt=row.attempt,
            message=row.message,
            message_characters=row.message_characters,
            response=row.response,
            response_characters=row.response_characters,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            seconds=row.seconds,
        )
        for row in connection.execute(_DETAILS, {"ids": list(ids)})
    }


def completed_results(connection: Connection, batch_ids: Sequence[int]) -> list[CompletedResults]:
    """Digest, counts and mean score of the given batches; batches without results are left out."""
    rows = connection.execute(_COMPLETED, {"batch_ids": list(batch_ids)})
    return [CompletedResults(**row._mapping) for row in rows]


def completed_columns(
    connection: Connection, batch_ids: Sequence[int], thresholds: Mapping[int, float]
) -> list[CompletedColumn]:
    """The results of the given batches by column; `thresholds` are those of prompts, by their id."""
    parameters = {
        "batch_ids": arrays.of_numbers(batch_ids),
        "prompt_ids": arrays.of_numbers(thresholds),
        "thresholds": arrays.of_numbers(thresholds.values()),
    }
    rows = connection.execute(_COMPLETED_COLUMNS, parameters)
    return [
        _completed_column(key, [*parts], thresholds)
        for key, parts in groupby(rows, key=lambda row: (row.batch_id, row.connection_id, row.prompt_id))
    ]


def _completed_column(
    key: tuple[int, int, int], parts: Sequence[Row[Any]], thresholds: Mapping[int, float]
) -> CompletedColumn:
    batch_id, connection_id, prompt_id = key
    scored = sum(part.scored for part in parts)
    return CompletedColumn(
        batch_id=batch_id,
        column=(connection_id, prompt_id),
        succeeded=sum(part.succeeded for part in parts),
        failed=sum(part.failed for part in parts),
        simulated=sum(part.simulated for part in parts),
        reused=sum(part.reused for part in parts),
        scored=scored,
        mean_score=float(sum(part.scores for part in parts)) / scored if scored else None,
        below_threshold=sum(part.below for part in parts) if prompt_id in thresholds else None,
        usage=tuple(_token_usage(part) for part in parts if part.asked),
    )


def _token_usage(row: Row[Any]) -> TokenUsage:
    return TokenUsage(
        connection_id=row.connection_id,
        prompt_id=row.prompt_id,
        has_input=row.has_input,
        has_output=row.has_output,
        cells=row.cells,
        input_tokens=int(row.input_tokens),
        output_tokens=int(row.output_tokens),
    )


def _result_sums(row: Row[Any], median: float | None) -> ResultSums:
    return ResultSums(
        cells=CellCounts(reused=row.reused, **{str(outcome): getattr(row, outcome) for outcome in Outcome}),
        scores=_score_summary(row, median),
        input_tokens=Total(int(row.input_tokens), row.input_cells) if row.input_cells else None,
        output_tokens=Total(int(row.output_tokens), row.output_cells) if row.output_cells else None,
        seconds=Total(float(row.seconds), row.timed) if row.timed else None,
        simulated=row.simulated,
        reprocessed=row.reprocessed,
    )


def _score_summary(row: Row[Any], median: float | None) -> ScoreSummary | None:
    if row.scored == 0 or median is None:
        return None
    return ScoreSummary(
        n=row.scored,
        mean=float(row.scores) / row.scored,
        median=median,
        minimum=row.minimum,
        maximum=row.maximum,
        histogram=tuple(row.histogram),
    )
