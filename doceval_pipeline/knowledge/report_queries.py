"""Reads results of batches: changes, the results of single documents, and sums of completed batches.

PostgreSQL aggregates all rows; single rows are read only if a page shows them. Everything
reads `current_llm_responses`, the latest attempt of each evaluation.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.completed_results import CompletedColumn, CompletedResults
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.results import CellDetails, ReportCell, ResultChange
from doceval_pipeline.domain.usage import TokenUsage
from doceval_pipeline.knowledge.digests import RESULT_DIGEST
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, has_outcome_sql, outcome_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL

# Characters of a message and of a response. Messages that differ only later count as equal.
MESSAGE_CHARACTERS = 2_000
RESPONSE_CHARACTERS = 2_000
# Read beyond them, so that a key on the border is recognised before it is cut.
KEY_CHARACTERS = 1_000
TITLE_CHARACTERS = 300

_FAILED = has_outcome_sql(Outcome.FAILED)
_SUCCEEDED = has_outcome_sql(Outcome.SUCCEEDED)
_ASKED = f"({has_outcome_sql(Outcome.SUCCEEDED, Outcome.FAILED)} AND reused_from IS NULL)"

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
# After the id, the columns of `ReportCell` and `CellDetails` in their order: reading 10,000 rows by name
# takes 47 ms, by position 13.
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
    FROM current_llm_responses WHERE id = ANY(CAST(:ids AS bigint[]))
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


def read_changes(connection: Connection, batch_id: int, limit: int) -> list[ResultChange]:
    """The first reprocessed evaluations, ordered by document, connection and prompt."""
    rows = connection.execute(_CHANGES, {"batch_id": batch_id, "limit": limit})
    return [ResultChange(**row._mapping) for row in rows]


def read_cells(connection: Connection, batch_id: int, documents: Sequence[int]) -> dict[int, ReportCell]:
    """The current results of the given documents without details, by the id of their queue row.

    Failures come first; then the order is that of `documents`.
    """
    parameters = {"batch_id": batch_id, "documents": arrays.of_numbers(documents)}
    return {row[0]: ReportCell(*row[1:]) for row in connection.execute(_CELLS, parameters)}


def read_details(connection: Connection, ids: Sequence[int]) -> dict[int, CellDetails]:
    """The texts and figures of results, by the id of their queue row.

    Texts are cut `KEY_CHARACTERS` later than they are shown; lengths are those of the whole texts.
    """
    rows = connection.execute(_DETAILS, {"ids": arrays.of_numbers(ids)})
    return {row[0]: CellDetails(*row[1:]) for row in rows}


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
