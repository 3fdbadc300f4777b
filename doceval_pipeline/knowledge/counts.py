"""Counts the rows of batches: by outcome, by origin, running and deferred. Writes nothing.

Everything here reads `current_llm_responses`, the latest attempt of each evaluation. `incremental_counts` has
the counts that triggers keep, which need no scan of the rows.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from doceval_pipeline.domain.evaluations import CellCounts, Outcome
from doceval_pipeline.domain.queue_rows import DeferredRows, RunningRows
from doceval_pipeline.knowledge.outcomes import has_outcome_sql, outcome_sql

_COUNTS = text(f"""
    SELECT batch_id, {outcome_sql()} AS outcome, count(*) AS cells, count(reused_from) AS reused
    FROM current_llm_responses WHERE batch_id = ANY(:batch_ids) GROUP BY 1, 2
""")
# Aggregated in two steps, so that PostgreSQL sorts nothing.
_ORIGINS = text("""
    SELECT batch_id, count(*) FILTER (WHERE reused_batch_id <> 0) AS batches,
           bool_or(reused_batch_id = 0) AS is_elsewhere
    FROM (SELECT batch_id, reused_batch_id FROM current_llm_responses
          WHERE batch_id = ANY(:batch_ids) AND reused_from IS NOT NULL GROUP BY 1, 2) AS origins
    GROUP BY 1
""")
_NEWEST_ORIGINS = text("""
    SELECT reused_batch_id, count(*) AS results FROM current_llm_responses
    WHERE batch_id = :batch_id AND reused_from IS NOT NULL
    GROUP BY 1 ORDER BY 1 DESC LIMIT :limit
""")
_DOCUMENTS = text("""
    SELECT batch_id, count(DISTINCT document_id) AS documents FROM current_llm_responses
    WHERE batch_id = ANY(:batch_ids) GROUP BY batch_id
""")
_RUNNING = text(f"""
    SELECT batch_id, connection_id, min(connection_details ->> 'name') AS connection, count(*) AS rows,
           extract(epoch FROM clock_timestamp() - min(started_processing_at))::float8 AS oldest_seconds,
           max(lease_expires_at) FILTER (WHERE lease_expires_at > statement_timestamp()) AS lease_ends
    FROM current_llm_responses
    WHERE batch_id = ANY(:batch_ids) AND {has_outcome_sql(Outcome.RUNNING)}
    GROUP BY 1, 2, coalesce(lease_expires_at > statement_timestamp(), false) ORDER BY 1, 5 DESC NULLS LAST
""")
_DEFERRED = text(f"""
    SELECT batch_id, count(*) FILTER (WHERE not_before > clock_timestamp()) AS rows,
           min(not_before) FILTER (WHERE not_before > clock_timestamp()) AS first,
           max(not_before) FILTER (WHERE not_before > clock_timestamp()) AS last, max(uncounted) AS uncounted,
           extract(epoch FROM clock_timestamp()
                              - max(not_before) FILTER (WHERE not_before <= clock_timestamp()))::float8
               AS due_seconds
    FROM current_llm_responses
    WHERE batch_id = ANY(:batch_ids) AND not_before IS NOT NULL AND {has_outcome_sql(Outcome.WAITING)}
    GROUP BY 1 ORDER BY 1
""")


def count_cells(connection: Connection, batch_ids: Sequence[int]) -> dict[int, CellCounts]:
    """Count the evaluations of several batches by outcome, in one statement."""
    counts: dict[int, dict[str, int]] = {batch_id: {"reused": 0} for batch_id in batch_ids}
    for row in connection.execute(_COUNTS, {"batch_ids": list(batch_ids)}):
        counts[row.batch_id][row.outcome] = row.cells
        counts[row.batch_id]["reused"] += row.reused
    return {batch_id: CellCounts(**values) for batch_id, values in counts.items()}


def count_origins(connection: Connection, batch_ids: Sequence[int]) -> dict[int, tuple[int, bool]]:
    """By batch: from how many batches its reused results come, and whether some come from elsewhere.

    Elsewhere is another installation. Batches without reused results are left out.
    """
    rows = connection.execute(_ORIGINS, {"batch_ids": list(batch_ids)})
    return {row.batch_id: (row.batches, row.is_elsewhere) for row in rows}


def newest_origins(connection: Connection, batch_id: int, limit: int) -> list[tuple[int, int]]:
    """The newest batches that the reused results of a batch come from, and the number of results of each.

    Batch 0 is another installation; it comes last.
    """
    rows = connection.execute(_NEWEST_ORIGINS, {"batch_id": batch_id, "limit": limit})
    return [(row.reused_batch_id, row.results) for row in rows]


def running_rows(connection: Connection, batch_ids: Sequence[int]) -> list[RunningRows]:
    """The running rows of several batches, by batch, connection and lease; the oldest first."""
    rows = connection.execute(_RUNNING, {"batch_ids": list(batch_ids)})
    return [RunningRows(**row._mapping) for row in rows]


def deferred_rows(connection: Connection, batch_ids: Sequence[int]) -> dict[int, DeferredRows]:
    """The deferred rows of each of the given batches that has any."""
    rows = connection.execute(_DEFERRED, {"batch_ids": list(batch_ids)})
    return {row.batch_id: DeferredRows(**row._mapping) for row in rows}


def count_documents(connection: Connection, batch_ids: Sequence[int]) -> dict[int, int]:
    """The number of distinct documents in the rows of each batch, in one statement."""
    rows = connection.execute(_DOCUMENTS, {"batch_ids": list(batch_ids)})
    return dict.fromkeys(batch_ids, 0) | {row.batch_id: row.documents for row in rows}
