"""Counts the work that waits for Dagster's sensors. Reads only."""

from dataclasses import dataclass

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import BatchState
from doceval_pipeline.doc_eval.batches import batches_in
from doceval_pipeline.doc_eval.lifecycle import OPEN
from doceval_pipeline.doc_eval.recurring.stored import list_recurring
from doceval_pipeline.doc_eval.runs.requests import unreported, waiting_stagings
from doceval_pipeline.doc_eval.webhook_deliveries import count_overdue
from doceval_pipeline.knowledge.counts import count_cells
from doceval_pipeline.reports.formatting import counted


@dataclass(frozen=True)
class PendingWork:
    """Work of one kind that waits for a sensor; `description` is the beginning of a sentence."""

    description: str
    sensor: str


def find_pending_work(databases: Databases) -> list[PendingWork]:
    """The work that running sensors would do within seconds."""
    with databases.doc_eval.connect() as connection:
        batches = batches_in(connection, OPEN)
        stagings = waiting_stagings(connection)
        reports = len(unreported(connection))
        # Where the webhook is off, nothing is sent.
        deliveries = count_overdue(connection) if databases.settings.webhook_url else 0
        due = sum(record.due_at is not None for record in list_recurring(connection))
    with databases.knowledge.connect() as connection:
        cells = count_cells(connection, [batch.id for batch in batches])
    done = sum(BatchState(batch, cells[batch.id]).is_done for batch in batches)
    counts = (
        (done, "batch is done and waits", "batches are done and wait", "response_status"),
        (reports, "report waits", "reports wait", "response_status"),
        (stagings, "staging waits", "stagings wait", "new_batches"),
        (due, "recurring evaluation is due", "recurring evaluations are due", "recurring_evaluations"),
        (deliveries, "webhook message waits", "webhook messages wait", "completion_webhook"),
    )
    return [PendingWork(counted(n, one, many), sensor) for n, one, many, sensor in counts if n]
