"""Counts the work that waits for Dagster's sensors. Changes nothing."""

from dataclasses import dataclass

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import Seen
from doceval_pipeline.doc_eval.batches import batches_in
from doceval_pipeline.doc_eval.lifecycle import OPEN
from doceval_pipeline.doc_eval.recurring import list_recurring
from doceval_pipeline.doc_eval.runs.requests import unreported, waiting_stagings
from doceval_pipeline.doc_eval.webhook_deliveries import count_overdue
from doceval_pipeline.knowledge.counts import count_cells
from doceval_pipeline.reports.formatting import counted


@dataclass(frozen=True)
class Work:
    """Work of one kind: how much of it waits, in words, and for which sensor."""

    said: str
    sensor: str


def awaiting(databases: Databases) -> list[Work]:
    """The work that sensors find within seconds where they run."""
    with databases.doc_eval.connect() as connection:
        batches = batches_in(connection, OPEN)
        stagings = waiting_stagings(connection)
        reports = len(unreported(connection))
        # Where the webhook is off, nothing is sent.
        deliveries = count_overdue(connection) if databases.settings.webhook_url else 0
        due = sum(record.due_at is not None for record in list_recurring(connection))
    with databases.knowledge.connect() as connection:
        cells = count_cells(connection, [batch.id for batch in batches])
    done = sum(Seen(batch, cells[batch.id], None, 0).is_done for batch in batches)
    found = (
        (done, "batch is done and waits", "batches are done and wait", "response_status"),
        (reports, "report waits", "reports wait", "response_status"),
        (stagings, "staging waits", "stagings wait", "new_batches"),
        (due, "recurring evaluation is due", "recurring evaluations are due", "recurring_evaluations"),
        (deliveries, "webhook message waits", "webhook messages wait", "completion_webhook"),
    )
    return [Work(counted(n, one, many), sensor) for n, one, many, sensor in found if n]
