"""Reads the results of a batch row by row, for an export, in bounded memory. Changes nothing."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, TextClause, text

from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, outcome_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL

# Rows that are fetched at a time; one whose texts have more bytes than this gets them by itself.
ROWS_AT_A_TIME = 1_000
SMALL_TEXTS = 64 * 1024
# Bytes of a text that the table accepts, by its trigger bound_response.
LARGEST_TEXT = 16 * 1024 * 1024


def _utc(column: str) -> str:
    """A time in UTC, without its zone; none where its year has not four digits, which a row may hold."""
    return (
        f"CASE WHEN {column} BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00' "
        f"THEN {column} AT TIME ZONE 'UTC' END"
    )


def _results(source: str) -> TextClause:
    """All rows of a batch in a table or view, in the order of the index, so that nothing is sorted."""
    return text(f"""
        SELECT r.id, r.document_id, d.document_id, d.sha256, d.file_size, d.content_type, d.doc_type,
               r.file_name, r.connection_id, r.prompt_id, r.attempt,
               r.withdrawn_at IS NULL AND r.superseded_at IS NULL, {outcome_sql()}, r.status, r.overall_score,
               CASE WHEN small THEN r.response_text END, CASE WHEN small THEN r.response_json END,
               CASE WHEN small THEN r.error_message END,
               CASE WHEN r.input_tokens >= 0 THEN r.input_tokens END,
               CASE WHEN r.output_tokens >= 0 THEN r.output_tokens END,
               {SECONDS_SQL},
               {SIMULATED_SQL},
               r.worker, r.task_id, r.deliveries, {_utc("r.created_at")}, {_utc("r.started_processing_at")},
               {_utc("r.completed_processing_at")}, {_utc("r.withdrawn_at")}, r.reused_batch_id,
               r.reused_from, small
        FROM {source} AS r
        JOIN docs AS d ON d.id = r.document_id
        CROSS JOIN LATERAL (
            SELECT coalesce(octet_length(r.response_text), 0) + coalesce(octet_length(r.response_json), 0)
                   + coalesce(octet_length(r.error_message), 0) <= {SMALL_TEXTS} AS small) AS computed
        WHERE r.batch_id = :batch_id
        ORDER BY r.document_id, r.prompt_id, r.connection_id, r.attempt
    """)


_CURRENT, _EVERY_ATTEMPT = _results("current_llm_responses"), _results("llm_responses")
# Of a text that came past the bound of the table, so much as can be read.
_TEXTS = text(f"""
    SELECT {
    ", ".join(
        f"CASE WHEN octet_length({column}) <= {LARGEST_TEXT} THEN {column} ELSE left({column}, 100000) END"
        for column in ("response_text", "response_json", "error_message")
    )
}
    FROM llm_responses WHERE id = :id
""")
_COUNT_CURRENT = text("SELECT count(*), now() FROM current_llm_responses WHERE batch_id = :batch_id")
_COUNT_EVERY_ATTEMPT = text("SELECT count(*), now() FROM llm_responses WHERE batch_id = :batch_id")


class Result(NamedTuple):
    """One row of `llm_responses`, and what `docs` says of its document.

    `stored_as` is `docs.id`, `file_size` in bytes, `file_name` the path of the document when it was queued.
    `current` rows are those of `current_llm_responses`. A reused result is the one of the row `reused_from`
    of the batch `reused_batch_id`. Times are in UTC and have no zone.
    """

    id: int
    stored_as: int
    document_id: str
    sha256: str
    file_size: int
    content_type: str
    doc_type: str
    file_name: str | None
    connection_id: int
    prompt_id: int
    attempt: int
    current: bool
    outcome: str
    status: str
    score: float | None
    response_text: str | None
    response_json: str | None
    error_message: str | None
    input_tokens: int | None
    output_tokens: int | None
    seconds: float | None
    simulated: bool
    worker: str | None
    task_id: str | None
    deliveries: int
    queued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    withdrawn_at: datetime | None
    reused_batch_id: int | None
    reused_from: int | None


def count_results(connection: Connection, batch_id: int, every_attempt: bool) -> tuple[int, datetime]:
    """How many rows `read_results` gives, and the time of the caller's transaction."""
    statement = _COUNT_EVERY_ATTEMPT if every_attempt else _COUNT_CURRENT
    rows, now = connection.execute(statement, {"batch_id": batch_id}).one()
    return rows, now


def read_results(connection: Connection, batch_id: int, every_attempt: bool) -> Iterator[Result]:
    """The current results of a batch, or every attempt, by `docs.id`, prompt, connection and attempt.

    Not all of them are in memory at a time. The caller's transaction must be REPEATABLE READ, so that
    they are of one moment.
    """
    statement = _EVERY_ATTEMPT if every_attempt else _CURRENT
    options = {"yield_per": ROWS_AT_A_TIME}
    for *values, small in connection.execute(statement, {"batch_id": batch_id}, execution_options=options):
        result = Result(*values)
        yield result if small else _with_texts(connection, result)


def _with_texts(connection: Connection, result: Result) -> Result:
    response_text, response_json, error_message = connection.execute(_TEXTS, {"id": result.id}).one()
    return result._replace(
        response_text=response_text, response_json=response_json, error_message=error_message
    )
