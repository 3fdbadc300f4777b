"""Whether a batch of a recurring evaluation is larger than its limits allow without a person."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.estimates import ConnectionWork, estimate_work
from doceval_pipeline.doc_eval.batches import BatchRecord
from doceval_pipeline.knowledge.queue import RowTally, tally_rows
from doceval_pipeline.knowledge.status_words import Outcome

TO_COME = (Outcome.WAITING, Outcome.PAUSED)


def why_held(
    databases: Databases,
    knowledge: Connection,
    batch: BatchRecord,
    config: Mapping[str, Any],
    documents: Sequence[int],
) -> str | None:
    """Why a batch whose rows were just added is held; None where it is within its limits.

    Parameters
    ----------
    knowledge
        The transaction that sees the rows.
    documents
        The `docs.id` of the batch.
    """
    if batch.max_documents is not None and len(documents) > batch.max_documents:
        return f"has {len(documents):,} documents, more than max_documents ({batch.max_documents:,})"
    if batch.max_cost is None:
        return None
    tallies = tally_rows(knowledge, batch.id, documents, config["prompts"], config["connections"])
    for currency, cost in _expected_costs(databases, batch.id, config, tallies).items():
        if cost > batch.max_cost:
            return f"is expected to cost {cost:,.2f} {currency}, more than max_cost ({batch.max_cost:,.2f})"
    return None


def _expected_costs(
    databases: Databases, batch_id: int, config: Mapping[str, Any], tallies: Sequence[RowTally]
) -> dict[str, float]:
    """What the cells to come are expected to cost, by currency; what is not known is not in it."""
    work = []
    for connection in config["connections"]:
        own = [t for t in tallies if t.connection_id == connection["id"] and t.outcome in TO_COME]
        cells, size = sum(t.rows for t in own), sum(t.bytes for t in own)
        work.append(ConnectionWork(connection["id"], connection["name"], cells, size))
    costs: defaultdict[str, float] = defaultdict(float)
    for estimate in estimate_work(databases, batch_id, work):
        if estimate.cost is not None and estimate.currency is not None:
            costs[estimate.currency] += estimate.cost.expected
    return costs
