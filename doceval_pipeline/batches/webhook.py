"""Tells a receiver outside of this installation that batches completed: signed, and at least once.

Level-triggered like all else: what is to be told is asked of the databases and kept in an outbox, and the
same bytes are sent under the same id until the receiver has them. docs/webhook.md is for receivers.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval import webhook_deliveries as outbox
from doceval_pipeline.doc_eval.batches import BatchRecord, batches_by_ids, partition_key
from doceval_pipeline.doc_eval.webhook_deliveries import Delivery
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.knowledge.completed import CompletedResults, add_up_completed
from doceval_pipeline.reports.figures import verdict_of
from doceval_pipeline.reports.model import CellCounts
from doceval_pipeline.settings import SECRET_PREFIX, Settings

if TYPE_CHECKING:
    import httpx

# What was completed longer ago is no news, and what failed for so long is given up.
SECONDS_OF_INTEREST = 3 * 86_400.0
# Until the second attempt; doubled with each further one.
SECONDS_BEFORE_SECOND = 30.0
LONGEST_PAUSE = 6 * 3_600.0
# For everything from the look-up of the name to the status of the answer.
SECONDS_TO_ANSWER = 15.0
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
    """Tell the receiver of every result that it was not told of and that is due.

    No failure of the receiver raises: it is recorded, and what failed is due again later.

    Raises
    ------
    ConfigurationError
        There is no receiver.
    """
    receiver = _receiver(databases.settings)
    _fill_outbox(databases)
    with databases.doc_eval.begin() as connection:
        due = outbox.claim(connection, PORTION, SECONDS_BEFORE_SECOND, LONGEST_PAUSE)
    if not due:
        return Told([], {})
    answers = list(zip(due, asyncio.run(_send_all(receiver, due)), strict=True))
    with databases.doc_eval.begin() as connection:
        outbox.record(connection, answers, SECONDS_OF_INTEREST)
    return Told(
        [message_id(delivery) for delivery, failure in answers if failure is None],
        {message_id(delivery): failure for delivery, failure in answers if failure is not None},
    )


def message_id(delivery: Delivery) -> str:
    """What the receiver knows a message by: the same completion with the same result, the same id."""
    since = delivery.created_at.astimezone(UTC)
    return f"{partition_key(delivery.batch_id)}-{delivery.result_digest}-{since:%Y%m%dT%H%M%S%f}"


def signature(secret: str, identifier: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature` of a message, as https://www.standardwebhooks.com says."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = hmac.digest(key, f"{identifier}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"


def _fill_outbox(databases: Databases) -> None:
    with databases.doc_eval.connect() as connection:
        numbers = outbox.untold(connection, SECONDS_OF_INTEREST, CELLS_AT_ONCE)
        batches = {batch.id: batch for batch in batches_by_ids(connection, numbers)}
    if not batches:
        return
    with databases.knowledge.connect() as connection:
        results = add_up_completed(connection, list(batches))
    payloads = {
        (found.batch_id, found.digest): _payload(databases, batches[found.batch_id], found)
        for found in results
        # Otherwise somebody has just written: the new result is told, once it has a report.
        if found.digest == batches[found.batch_id].reported_digest
    }
    with databases.doc_eval.begin() as connection:
        outbox.keep(connection, payloads)


def _payload(databases: Databases, batch: BatchRecord, found: CompletedResults) -> str:
    """The body of a message; its shape is described in docs/webhook.md."""
    cells = CellCounts(batch.expected_cells or 0, found.succeeded, found.failed, 0, 0, 0, 0)
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
            "scored": found.scored,
        },
        "mean_score": found.mean_score,
        "completed_at": None if batch.completed_at is None else _in_words(batch.completed_at),
        "result_digest": found.digest,
        "report": batch.report_file,
        "url": _page(databases.settings, batch.key),
    }
    return json.dumps(
        {"type": "batch.completed", "timestamp": _in_words(datetime.now(UTC)), "data": data},
        separators=(",", ":"),
    )


def _page(settings: Settings, key: str) -> str | None:
    return None if settings.ui_url is None else f"{settings.ui_url}/assets/completion_report?partition={key}"


def _in_words(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class _Receiver:
    """Where messages go, and the secret that they are signed with; neither is shown."""

    url: str = field(repr=False)
    secret: str = field(repr=False)


def _receiver(settings: Settings) -> _Receiver:
    if settings.webhook_url is None or settings.webhook_secret is None:
        raise ConfigurationError("DOCEVAL_WEBHOOK_URL is not set: there is nobody to tell")
    return _Receiver(settings.webhook_url, settings.webhook_secret)


async def _send_all(receiver: _Receiver, due: Sequence[Delivery]) -> list[str | None]:
    """Send messages at once; for each of them why it failed, or None."""
    # Loading it takes a tenth of a second, which is only worth it where somebody is told.
    import httpx

    # Both tell the URL, which may hold a token.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    async with httpx.AsyncClient(timeout=SECONDS_TO_ANSWER, follow_redirects=False) as client:
        return await asyncio.gather(*(_send(client, receiver, delivery) for delivery in due))


async def _send(client: "httpx.AsyncClient", receiver: _Receiver, delivery: Delivery) -> str | None:
    """Send one message. Nothing that the receiver says is read but its status."""
    import httpx

    body = delivery.payload.encode()
    headers = _headers(receiver, message_id(delivery), int(time.time()), body)
    try:
        # Around all of it, since a receiver may answer a byte at a time.
        async with (
            asyncio.timeout(SECONDS_TO_ANSWER),
            client.stream("POST", receiver.url, content=body, headers=headers) as response,
        ):
            status: int = response.status_code
    except (TimeoutError, httpx.TimeoutException):
        return f"no answer within {SECONDS_TO_ANSWER:g} s"
    except httpx.ConnectError as error:
        return f"the receiver cannot be reached ({error})"
    except httpx.InvalidURL:
        return "DOCEVAL_WEBHOOK_URL names no host that can be looked up"
    except httpx.HTTPError as error:
        return f"the connection to the receiver broke ({type(error).__name__})"
    return None if 200 <= status < 300 else f"the receiver answered {status}"


def _headers(receiver: _Receiver, identifier: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    return {
        "content-type": "application/json",
        "user-agent": f"doceval-pipeline/{version('doceval-pipeline')}",
        "webhook-id": identifier,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(receiver.secret, identifier, timestamp, body),
    }
