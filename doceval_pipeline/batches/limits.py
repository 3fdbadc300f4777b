"""Whether a batch of a recurring evaluation is larger than its limits allow without a person."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.estimates import ConnectionWork, Estimate, estimate_work
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
    estimates: list[Estimate] = []
    if batch.max_cost is not None:
        tallies = tally_rows(knowledge, batch.id, documents, config["prompts"], config["connections"])
        estimates = estimate_work(databases, batch.id, _work(config, tallies))
    return exceeded_limit(batch.max_documents, batch.max_cost, len(documents), estimates)


def exceeded_limit(
    max_documents: int | None, max_cost: float | None, documents: int, estimates: Sequence[Estimate]
) -> str | None:
    """The limit that a new batch exceeds, as the end of a sentence; None where it is within them.

    Parameters
    ----------
    documents
        How many distinct documents it has.
    estimates
        Of what it asks; reused results cost nothing. Unknown costs exceed no limit.
    """
    if max_documents is not None and documents > max_documents:
        return f"has {documents:,} documents, more than max_documents ({max_documents:,})"
    if max_cost is None:
        return None
    for currency, cost in _costs(estimates).items():
        if cost > max_cost:
            return f"is expected to cost {cost:,.2f} {currency}, more than max_cost ({max_cost:,.2f})"
    return None


def _work(config: Mapping[str, Any], tallies: Sequence[RowTally]) -> list[ConnectionWork]:
    """The evaluations to come on each connection."""
    work = []
    for connection in config["connections"]:
        own = [t for t in tallies if t.connection_id == connection["id"] and t.outcome in TO_COME]
        cells, size = sum(t.rows for t in own), sum(t.bytes for t in own)
        work.append(ConnectionWork(connection["id"], connection["name"], cells, size))
    return work


def _costs(estimates: Sequence[Estimate]) -> dict[str, float]:
    """Expected costs by currency, without those that are not known."""
    costs: defaultdict[str, float] = defaultdict(float)
    for estimate in estimates:
        if estimate.cost is not None and estimate.currency is not None:
            costs[estimate.currency] += estimate.cost.expected
    return costs
