"""Reads the results of a batch row by row for an export, in bounded memory. Changes nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, TextClause, text

from doceval_pipeline.domain.export_record import ExportRecord
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, outcome_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL

# Rows fetched at a time; the texts of a row are fetched separately if they have more bytes than this.
ROWS_AT_A_TIME = 1_000
SMALL_TEXTS = 64 * 1024
# Largest text that the table accepts, in bytes; see its trigger bound_response.
LARGEST_TEXT = 16 * 1024 * 1024
# Columns of a record that other databases know.
_WITHOUT_NAMES: dict[str, Any] = {
    "partition_key": "",
    "batch_name": "",
    "config_sha256": "",
    "folder": None,
    "files": 0,
    "connection": None,
    "provider": None,
    "model": None,
    "prompt": None,
    "threshold": None,
    "below_threshold": None,
    "cost": None,
    "currency": None,
}
_TIMES = ("queued_at", "started_at", "completed_at", "withdrawn_at")


def _utc(column: str) -> str:
    """SQL of a time in UTC without its zone; NULL outside of years 1 to 9999, which a row may hold."""
    return (
        f"CASE WHEN {column} BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00' "
        f"THEN {column} AT TIME ZONE 'UTC' END"
    )


def _results(source: str) -> TextClause:
    """All rows of a batch in a table or view, in the order of the index, so that nothing is sorted.

    The first three columns are not part of the record.
    """
    return text(f"""
        SELECT r.id AS row_id, r.document_id AS docs_id, small AS has_texts,
               r.batch_id, d.document_id, d.sha256, d.file_size, d.content_type, d.doc_type,
               r.file_name AS file, r.connection_id, r.prompt_id, r.attempt,
               r.withdrawn_at IS NULL AND r.superseded_at IS NULL AS current,
               {outcome_sql()} AS outcome, r.status, r.overall_score AS score,
               CASE WHEN small THEN r.response_text END AS response_text,
               CASE WHEN small THEN r.response_json END AS response_json,
               CASE WHEN small THEN r.error_message END AS error_message,
               CASE WHEN r.input_tokens >= 0 THEN r.input_tokens END AS input_tokens,
               CASE WHEN r.output_tokens >= 0 THEN r.output_tokens END AS output_tokens,
               {SECONDS_SQL} AS seconds, {SIMULATED_SQL} AS simulated, r.worker, r.task_id, r.deliveries,
               {_utc("r.created_at")} AS queued_at, {_utc("r.started_processing_at")} AS started_at,
               {_utc("r.completed_processing_at")} AS completed_at, {_utc("r.withdrawn_at")} AS withdrawn_at,
               r.reused_batch_id AS reused_from_batch, r.reused_from
        FROM {source} AS r
        JOIN docs AS d ON d.id = r.document_id
        CROSS JOIN LATERAL (
            SELECT coalesce(octet_length(r.response_text), 0) + coalesce(octet_length(r.response_json), 0)
                   + coalesce(octet_length(r.error_message), 0) <= {SMALL_TEXTS} AS small) AS computed
        WHERE r.batch_id = :batch_id
        ORDER BY r.document_id, r.prompt_id, r.connection_id, r.attempt
    """)


_CURRENT, _EVERY_ATTEMPT = _results("current_llm_responses"), _results("llm_responses")
# A text that bypassed the table's limit is cut to a length that can be read.
_TEXTS = text(f"""
    SELECT {
    ", ".join(
        f"CASE WHEN octet_length({column}) <= {LARGEST_TEXT} THEN {column} "
        f"ELSE left({column}, 100000) END AS {column}"
        for column in ("response_text", "response_json", "error_message")
    )
}
    FROM llm_responses WHERE id = :id
""")
_COUNT_CURRENT = text("""
    SELECT count(*) AS results, now() AS now FROM current_llm_responses WHERE batch_id = :batch_id
""")
_COUNT_EVERY_ATTEMPT = text("""
    SELECT count(*) AS results, now() AS now FROM llm_responses WHERE batch_id = :batch_id
""")


def count_results(connection: Connection, batch_id: int, *, every_attempt: bool) -> tuple[int, datetime]:
    """Return the number of rows that `read_results` yields, and the time of the caller's transaction."""
    statement = _COUNT_EVERY_ATTEMPT if every_attempt else _COUNT_CURRENT
    row = connection.execute(statement, {"batch_id": batch_id}).one()
    return row.results, row.now


def read_results(
    connection: Connection, batch_id: int, *, every_attempt: bool
) -> Iterator[tuple[int, ExportRecord]]:
    """Yield the current results of a batch, or every attempt, each after the `docs.id` of its document.

    They are ordered by `docs.id`, prompt, connection and attempt, and never all in memory. Names are missing;
    `file` is the path of the document when it was queued. The transaction must be REPEATABLE READ, so
    that all results are of one moment.
    """
    statement = _EVERY_ATTEMPT if every_attempt else _CURRENT
    options = {"yield_per": ROWS_AT_A_TIME}
    for row in connection.execute(statement, {"batch_id": batch_id}, execution_options=options):
        values = {**_WITHOUT_NAMES, **row._mapping}
        row_id, docs_id, has_texts = (values.pop(name) for name in ("row_id", "docs_id", "has_texts"))
        if not has_texts:
            values |= _large_texts(connection, row_id)
        values |= {name: values[name].replace(tzinfo=UTC) for name in _TIMES if values[name] is not None}
        yield docs_id, ExportRecord(**values)


def _large_texts(connection: Connection, row_id: int) -> dict[str, Any]:
    return dict(connection.execute(_TEXTS, {"id": row_id}).one()._mapping)
