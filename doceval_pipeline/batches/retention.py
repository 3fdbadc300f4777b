"""Deletes old rows from tables that only grow: Dagster's event log, samples of progress, fulfilled requests,
and occurrences that made no batch.

Dagster has a retention for the ticks of its sensors, but not for its event log. Events about assets and about
how runs ended are kept forever; the log lines in between take most of the space.
"""

from dataclasses import dataclass

from sqlalchemy import Engine, TextClause, text

from doceval_pipeline.batches.databases import Databases, dagster_engine, database_errors
from doceval_pipeline.doc_eval.progress import thin_out
from doceval_pipeline.doc_eval.recurring.occurrences import delete_old_occurrences
from doceval_pipeline.knowledge.attempts import forget_requests

# Rows per transaction, so that other transactions do not wait long for locks.
_PORTION = 10_000
# Event types of Dagster 1.13 (dagster.DagsterEventType) that a run's page needs.
_RUN_EVENTS = (
    "PIPELINE_ENQUEUED",
    "PIPELINE_STARTING",
    "PIPELINE_START",
    "PIPELINE_SUCCESS",
    "PIPELINE_FAILURE",
    "PIPELINE_CANCELING",
    "PIPELINE_CANCELED",
    "STEP_FAILURE",
)
_DELETE_LINES = text("""
    DELETE FROM event_logs WHERE id IN (
        SELECT id FROM event_logs
        WHERE timestamp < timezone('utc', now()) - make_interval(days => :days)
          AND asset_key IS NULL
          AND (dagster_event_type IS NULL OR dagster_event_type <> ALL(:run_events))
        LIMIT :portion)
""")
# The UI shows the newest observation of each partition, which is kept.
_DELETE_OBSERVATIONS = text("""
    DELETE FROM event_logs WHERE id IN (
        SELECT old.id FROM event_logs old
        WHERE old.timestamp < timezone('utc', now()) - make_interval(days => :days)
          AND old.dagster_event_type = 'ASSET_OBSERVATION'
          AND EXISTS (
              SELECT 1 FROM event_logs newer
              WHERE newer.asset_key = old.asset_key AND newer.dagster_event_type = 'ASSET_OBSERVATION'
                AND newer.partition IS NOT DISTINCT FROM old.partition AND newer.id > old.id)
        LIMIT :portion)
""")


@dataclass(frozen=True)
class DeletedRows:
    """How many rows were deleted."""

    log_lines: int
    observations: int
    progress_samples: int
    reprocess_requests: int
    occurrences: int


def delete_old_rows(databases: Databases) -> DeletedRows:
    """Delete rows that are older than `DOCEVAL_KEEP_DAYS`.

    Raises
    ------
    DatabaseError
    """
    days = databases.settings.keep_days
    dagster = dagster_engine(databases.settings)
    with database_errors():
        lines = _in_portions(dagster, _DELETE_LINES, days)
        observations = _in_portions(dagster, _DELETE_OBSERVATIONS, days)
        with databases.doc_eval.begin() as connection:
            samples = thin_out(connection, days)
            occurrences = delete_old_occurrences(connection, days)
        with databases.knowledge.begin() as connection:
            requests = forget_requests(connection, days)
    dagster.dispose()
    return DeletedRows(lines, observations, samples, requests, occurrences)


def _in_portions(engine: Engine, statement: TextClause, days: int) -> int:
    removed = 0
    while True:
        with engine.begin() as connection:
            gone = connection.execute(
                statement, {"days": days, "portion": _PORTION, "run_events": list(_RUN_EVENTS)}
            ).rowcount
        removed += gone
        if gone < _PORTION:
            return removed
