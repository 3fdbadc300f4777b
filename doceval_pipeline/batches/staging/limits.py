"""The limits of a batch: one that exceeds them is held until a person resumes or cancels it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.estimates import ConnectionWork, WorkEstimate, estimate_work
from doceval_pipeline.doc_eval.batches import BatchRecord
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.files import DocumentRange
from doceval_pipeline.knowledge.queue import tally_rows
from doceval_pipeline.reports.formatting import money

PENDING = (Outcome.WAITING, Outcome.PAUSED)


def held_reason(
    databases: Databases,
    knowledge: Connection,
    batch: BatchRecord,
    config: Mapping[str, Any],
    documents: int,
    ranges: Iterable[DocumentRange],
) -> str | None:
    """Why a batch whose rows were just added is held; None if it is within its limits.

    A batch without pending evaluations is never held.

    Parameters
    ----------
    knowledge
        The transaction that added the rows.
    documents, ranges
        How many distinct documents the batch has, and which.
    """
    is_large = batch.max_documents is not None and documents > batch.max_documents
    if not is_large and batch.max_cost is None:
        return None
    estimates = estimate_work(databases, batch.id, _pending_work(knowledge, batch.id, config, ranges))
    return exceeded_limit(batch.max_documents, batch.max_cost, documents, estimates)


def exceeded_limit(
    max_documents: int | None, max_cost: float | None, documents: int, estimates: Sequence[WorkEstimate]
) -> str | None:
    """Why a new batch is held; None if it is within its limits or has nothing to process. Pure.

    Each currency is compared separately. An unknown cost does not count as 0.

    Parameters
    ----------
    documents
        How many distinct documents the batch has.
    estimates
        Of the evaluations to process; reused results are not processed.
    """
    pending = [estimate for estimate in estimates if estimate.cells]
    if not pending:
        return None
    if max_documents is not None and documents > max_documents:
        return f"{documents:,} documents exceed max_documents ({max_documents:,})"
    return None if max_cost is None else _excessive_cost(pending, max_cost)


def _excessive_cost(estimates: Sequence[WorkEstimate], max_cost: float) -> str | None:
    costs: defaultdict[str, float] = defaultdict(float)
    for estimate in estimates:
        if estimate.cost is not None and estimate.currency is not None:
            costs[estimate.currency] += estimate.cost.expected
    for currency, cost in sorted(costs.items()):
        if cost > max_cost:
            return f"an expected cost of {money(cost)} {currency} exceeds max_cost ({money(max_cost)})"
    unknown = [estimate for estimate in estimates if estimate.cost is None]
    if unknown:
        return (
            f"max_cost ({money(max_cost)}) cannot be checked: the cost of {unknown[0].connection!r} is "
            f"unknown, because {_why_unknown(unknown[0])}"
        )
    return None


def _why_unknown(estimate: WorkEstimate) -> str:
    if estimate.currency is None:
        return "it has no prices"
    if estimate.input_tokens is None or estimate.output_tokens is None:
        return "it has fewer than three evaluations with known tokens"
    return "one of its prices is missing"


def _pending_work(
    knowledge: Connection, batch_id: int, config: Mapping[str, Any], ranges: Iterable[DocumentRange]
) -> list[ConnectionWork]:
    """Waiting and held evaluations by connection, for each connection that has any."""
    tallies = tally_rows(knowledge, batch_id, ranges, config["prompts"], config["connections"])

    def work() -> Iterator[ConnectionWork]:
        for connection in config["connections"]:
            own = [t for t in tallies if t.connection_id == connection["id"] and t.outcome in PENDING]
            cells, size = sum(t.rows for t in own), sum(t.bytes for t in own)
            if cells:
                yield ConnectionWork(connection["id"], connection["name"], cells, size)

    return list(work())
