"""Tells a receiver outside of this installation that batches completed or are held: signed, at least once.

Pending notifications are derived from the databases and stored in an outbox; the same bytes are sent under
the same id until the receiver has them. `webhook_sending` sends them; docs/webhook.md is for receivers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.webhook.sending import Message, Receiver, send_all
from doceval_pipeline.doc_eval import webhook_deliveries as outbox
from doceval_pipeline.doc_eval.batches import BatchRecord, batches_by_ids, partition_key
from doceval_pipeline.doc_eval.webhook_deliveries import Delivery, Outcome
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.results import CompletedResults
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.knowledge.report_queries import completed_results
from doceval_pipeline.reports.figures import verdict_of
from doceval_pipeline.settings import Settings

# What was completed longer ago is no news, and what failed for so long is given up.
SECONDS_OF_INTEREST = 3 * 86_400.0
# Until the second attempt; doubled with each further one.
SECONDS_BEFORE_SECOND = 30.0
LONGEST_PAUSE = 6 * 3_600.0
# More than three days have: an attempt that never ends, such as one that ends its process, ends here.
MOST_ATTEMPTS = 40
# What was given up is a warning for so long.
SECONDS_OF_WARNING = 7 * 86_400.0
MOST_WARNINGS = 10
# Messages that are sent at once.
PORTION = 20
# Rows that are read for messages of one look, as long as they are of several batches.
CELLS_AT_ONCE = 200_000


@dataclass(frozen=True)
class Told:
    """What one look sent: the ids that the receiver has now, and those that it has not, by why."""

    delivered: list[str]
    failed: dict[str, str]


def tell(databases: Databases) -> Told:
    """Tell the receiver of every result and every held batch that it was not told of and that is due.

    No failure of the receiver raises: it is recorded, and what failed is due again later.

    Raises
    ------
    ConfigurationError
        There is no receiver.
    """
    receiver = _receiver(databases.settings)
    _fill_outbox(databases)
    with databases.doc_eval.begin() as connection:
        outbox.give_up_unfinished(connection, MOST_ATTEMPTS)
        due = outbox.claim(connection, PORTION, SECONDS_BEFORE_SECOND, LONGEST_PAUSE, SECONDS_OF_INTEREST)
    if not due:
        return Told([], {})
    messages = [Message(message_id(delivery), delivery.payload.encode()) for delivery in due]
    answers = send_all(receiver, messages)
    outcomes = [
        Outcome(delivery, answer.failure, answer.is_final, answer.pause)
        for delivery, answer in zip(due, answers, strict=True)
    ]
    with databases.doc_eval.begin() as connection:
        outbox.record(connection, outcomes, SECONDS_OF_INTEREST)
    return Told(
        [message_id(outcome.delivery) for outcome in outcomes if outcome.failure is None],
        {
            message_id(outcome.delivery): outcome.failure
            for outcome in outcomes
            if outcome.failure is not None
        },
    )


def end_if_switched_off(databases: Databases) -> None:
    """End what is still to be sent where there is no receiver any more; `tell` takes it up again."""
    if databases.settings.webhook_url is None:
        with databases.doc_eval.begin() as connection:
            outbox.switch_off(connection)


def warnings(databases: Databases) -> list[str]:
    """A sentence for each of the newest batches whose receiver could not be told; at most 10, and a total."""
    with databases.doc_eval.connect() as connection:
        found = outbox.recent_troubles(connection, SECONDS_OF_WARNING)
    said = [f"{partition_key(trouble.batch_id)}: {trouble.sentence}" for trouble in found[:MOST_WARNINGS]]
    more = len(found) - len(said)
    return said + ([f"{more:,} more webhooks could not be sent: doceval status shows them"] if more else [])


def message_id(delivery: Delivery) -> str:
    """What the receiver knows a message by: the same id for the same completion with the same result."""
    since = delivery.created_at.astimezone(UTC)
    return f"{partition_key(delivery.batch_id)}-{delivery.result_digest}-{since:%Y%m%dT%H%M%S%f}"


def _fill_outbox(databases: Databases) -> None:
    with databases.doc_eval.begin() as connection:
        outbox.switch_on(connection, SECONDS_OF_INTEREST)
        held = batches_by_ids(connection, outbox.untold_held(connection, SECONDS_OF_INTEREST, PORTION))
        if held:
            payloads = {(batch.id, outbox.HELD): _held_payload(databases.settings, batch) for batch in held}
            outbox.keep(connection, payloads)
    _add_completed(databases)


def _add_completed(databases: Databases) -> None:
    with databases.doc_eval.begin() as connection:
        numbers = outbox.untold(connection, SECONDS_OF_INTEREST, CELLS_AT_ONCE)
        batches = {batch.id: batch for batch in batches_by_ids(connection, numbers)}
    if not batches:
        return
    with databases.knowledge.connect() as connection:
        results = completed_results(connection, list(batches))
    payloads = {
        (found.batch_id, found.digest): _payload(databases, batches[found.batch_id], found)
        for found in results
        # Otherwise somebody has just written: the new result is told, once it has a report.
        if found.digest == batches[found.batch_id].reported_digest
    }
    with databases.doc_eval.begin() as connection:
        outbox.keep(connection, payloads)


def _payload(databases: Databases, batch: BatchRecord, found: CompletedResults) -> str:
    """The body of a message about a completed batch; docs/webhook.md describes its shape."""
    cells = CellCounts(
        expected=batch.expected_cells or 0,
        succeeded=found.succeeded,
        failed=found.failed,
        reused=found.reused,
    )
    data = {
        "batch": batch.id,
        "partition": batch.key,
        "name": batch.name,
        "status": batch.status.value,
        "verdict": verdict_of(cells, found.simulated),
        "cells": {
            "expected": cells.expected,
            "succeeded": found.succeeded,
            "failed": found.failed,
            "simulated": found.simulated,
            "reused": found.reused,
            "scored": found.scored,
        },
        "mean_score": found.mean_score,
        "completed_at": None if batch.completed_at is None else _in_words(batch.completed_at),
        "result_digest": found.digest,
        "report": batch.report_file,
        "url": _page(databases.settings, "completion_report", batch.key),
    }
    return _message("batch.completed", data)


def _held_payload(settings: Settings, batch: BatchRecord) -> str:
    data = {
        "batch": batch.id,
        "partition": batch.key,
        "name": batch.name,
        "status": batch.status.value,
        "reason": batch.held_reason,
        "url": _page(settings, "queue_rows", batch.key),
    }
    return _message("batch.held", data)


def _message(kind: str, data: Mapping[str, Any]) -> str:
    message = {"type": kind, "timestamp": _in_words(datetime.now(UTC)), "data": data}
    return json.dumps(message, separators=(",", ":"))


def _page(settings: Settings, asset: str, key: str) -> str | None:
    return None if settings.ui_url is None else f"{settings.ui_url}/assets/{asset}?partition={key}"


def _in_words(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _receiver(settings: Settings) -> Receiver:
    if settings.webhook_url is None or settings.webhook_secret is None:
        raise ConfigurationError("DOCEVAL_WEBHOOK_URL is not set: notifications are disabled")
    return Receiver(settings.webhook_url, settings.webhook_secret)
