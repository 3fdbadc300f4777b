"""Notifies an external receiver that batches completed or are held: signed messages, at least once.

Pending notifications are derived from the databases and stored in an outbox; the same bytes are sent under
the same id until the receiver confirms them. `sending` sends them; docs/webhook.md is for receivers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.webhook.models import SealedModels, fitting
from doceval_pipeline.batches.webhook.sending import OutgoingMessage, ReceiverSettings, send_all
from doceval_pipeline.doc_eval import webhook_deliveries as outbox
from doceval_pipeline.doc_eval.batches import BatchRecord, batches_by_ids, partition_key
from doceval_pipeline.domain.completed_results import CompletedResults
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.webhook import Delivery
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.knowledge.report_queries import completed_columns, completed_results
from doceval_pipeline.reports.figures import verdict_of
from doceval_pipeline.settings import Settings

# Older completions are not sent, and messages that failed for this long are given up.
SECONDS_OF_INTEREST = 3 * 86_400.0
# Seconds until the second attempt; doubled with each further one.
SECONDS_BEFORE_SECOND = 30.0
LONGEST_PAUSE = 6 * 3_600.0
# More attempts than fit into three days: gives up messages whose attempts never end, such as crashing ones.
MOST_ATTEMPTS = 40
# Messages that were given up are reported as warnings for this long.
SECONDS_OF_WARNING = 7 * 86_400.0
MOST_WARNINGS = 10
# Messages that are sent concurrently.
PORTION = 20
# Limit of rows that one tick reads for messages of several batches; a single batch may have more.
CELLS_AT_ONCE = 200_000


@dataclass(frozen=True)
class SendResult:
    """Result of one tick: the ids of delivered messages, and the failures of the others by id."""

    delivered: list[str]
    failed: dict[str, str]


def send_pending(databases: Databases) -> SendResult:
    """Sends all due messages about completed and held batches.

    A failure of the receiver does not raise: it is recorded, and the message is due again later.

    Raises
    ------
    ConfigurationError
        No receiver is configured.
    """
    receiver = _receiver(databases.settings)
    _fill_outbox(databases)
    with databases.doc_eval.begin() as connection:
        outbox.give_up_unfinished(connection, MOST_ATTEMPTS)
        due = outbox.claim(connection, PORTION, SECONDS_BEFORE_SECOND, LONGEST_PAUSE, SECONDS_OF_INTEREST)
    if not due:
        return SendResult([], {})
    messages = [OutgoingMessage(message_id(delivery), delivery.payload.encode()) for delivery in due]
    attempts = list(zip(due, send_all(receiver, messages), strict=True))
    with databases.doc_eval.begin() as connection:
        outbox.record(connection, attempts, SECONDS_OF_INTEREST)
    return SendResult(
        [message_id(delivery) for delivery, result in attempts if result.failure is None],
        {message_id(delivery): result.failure for delivery, result in attempts if result.failure is not None},
    )


def end_if_switched_off(databases: Databases) -> None:
    """Ends all pending messages if no receiver is configured; `send_pending` resumes them later."""
    if databases.settings.webhook_url is None:
        with databases.doc_eval.begin() as connection:
            outbox.switch_off(connection)


def warnings(databases: Databases) -> list[str]:
    """One sentence for each of the 10 newest undelivered messages, and the number of further ones."""
    with databases.doc_eval.connect() as connection:
        undelivered = outbox.recently_undelivered(connection, SECONDS_OF_WARNING)
    shown = undelivered[:MOST_WARNINGS]
    sentences = [f"{partition_key(message.batch_id)}: {message.sentence}" for message in shown]
    more = len(undelivered) - len(shown)
    if more:
        sentences.append(f"{more:,} more webhook messages could not be sent: doceval status shows them")
    return sentences


def message_id(delivery: Delivery) -> str:
    """Id of a message for its receiver: the same for the same completion with the same result."""
    since = delivery.created_at.astimezone(UTC)
    return f"{partition_key(delivery.batch_id)}-{delivery.result_digest}-{since:%Y%m%dT%H%M%S%f}"


def _fill_outbox(databases: Databases) -> None:
    with databases.doc_eval.begin() as connection:
        outbox.switch_on(connection, SECONDS_OF_INTEREST)
        batches = batches_by_ids(connection, outbox.pending_held(connection, SECONDS_OF_INTEREST, PORTION))
        if batches:
            payloads = {
                (batch.id, outbox.HELD): _held_payload(databases.settings, batch) for batch in batches
            }
            outbox.add_messages(connection, payloads)
    _add_completed(databases)


def _add_completed(databases: Databases) -> None:
    with databases.doc_eval.begin() as connection:
        batch_ids = outbox.pending(connection, SECONDS_OF_INTEREST, CELLS_AT_ONCE)
        batches = {batch.id: batch for batch in batches_by_ids(connection, batch_ids)}
        if not batches:
            return
        models = SealedModels.read(connection, [*batches])
    # One moment, so that a message states the models of its digest.
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with repeatable.connect() as connection:
        results = completed_results(connection, [*batches])
        columns = completed_columns(connection, [*batches], models.thresholds)
    payloads = {
        (result.batch_id, result.digest): _payload(
            databases, batches[result.batch_id], result, models.as_json(result.batch_id, columns)
        )
        for result in results
        # Otherwise the results have just changed: the new ones are sent once they have a report.
        if result.digest == batches[result.batch_id].reported_digest
    }
    with databases.doc_eval.begin() as connection:
        outbox.add_messages(connection, payloads)


def _payload(
    databases: Databases, batch: BatchRecord, results: CompletedResults, models: Sequence[Mapping[str, Any]]
) -> str:
    """Body of a message about a completed batch; docs/webhook.md describes its shape."""
    cells = CellCounts(
        expected=batch.expected_cells or 0,
        succeeded=results.succeeded,
        failed=results.failed,
        reused=results.reused,
    )
    data = {
        "batch": batch.id,
        "partition": batch.key,
        "name": batch.name,
        "status": batch.status.value,
        "verdict": verdict_of(cells, results.simulated),
        "cells": {
            "expected": cells.expected,
            "succeeded": results.succeeded,
            "failed": results.failed,
            "simulated": results.simulated,
            "reused": results.reused,
            "scored": results.scored,
        },
        "mean_score": results.mean_score,
        "models": fitting(models),
        "models_total": len(models),
        "completed_at": None if batch.completed_at is None else _timestamp(batch.completed_at),
        "result_digest": results.digest,
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
    message = {"type": kind, "timestamp": _timestamp(datetime.now(UTC)), "data": data}
    return json.dumps(message, separators=(",", ":"))


def _page(settings: Settings, asset: str, key: str) -> str | None:
    return None if settings.ui_url is None else f"{settings.ui_url}/assets/{asset}?partition={key}"


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _receiver(settings: Settings) -> ReceiverSettings:
    if settings.webhook_url is None or settings.webhook_secret is None:
        raise ConfigurationError("DOCEVAL_WEBHOOK_URL is not set: notifications are disabled")
    return ReceiverSettings(settings.webhook_url, settings.webhook_secret)
