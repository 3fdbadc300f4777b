"""Batches of recurring evaluations that are over their limits: held before a processor can take a row."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.monitoring.status import BatchProgress, batch_progress
from doceval_pipeline.batches.staging import steps
from doceval_pipeline.batches.staging.estimates import WorkEstimate
from doceval_pipeline.batches.staging.limits import exceeded_limit
from doceval_pipeline.batches.staging.recurring import make_occurrence
from doceval_pipeline.batches.staging.reprocessing import (
    Mode,
    cancel,
    pause,
    queue_attempts,
    reprocess,
    resume,
)
from doceval_pipeline.batches.staging.steps import (
    Queued,
    assign_documents,
    queue_evaluations,
    seal_batch,
    store_documents,
)
from doceval_pipeline.batches.webhook.notifications import send_pending
from doceval_pipeline.doc_eval.definitions.apply import Applied, apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.doc_eval.recurring.stored import find_recurring
from doceval_pipeline.domain.findings import Interval
from doceval_pipeline.errors import BatchStateError
from doceval_pipeline.knowledge import queue
from doceval_pipeline_tests.batches.webhook.receiver import Receiver
from doceval_pipeline_tests.batches.webhook.test_notifications import documented, shape
from doceval_pipeline_tests.conftest import write_old

NIGHTS = (datetime(2026, 12, 1, 1, tzinfo=UTC) + timedelta(days=night) for night in count())
PRICES = {"input_per_million": 2, "output_per_million": 10}
KNOWN = Interval(1.0, 2.0, 3.0)


def estimate(
    connection: str, cost: float | None, currency: str | None, tokens: Interval | None = KNOWN
) -> Any:
    money = None if cost is None else Interval(0.0, cost, 2 * cost)
    return WorkEstimate(connection, 1, 9, tokens, tokens, None, money, currency)


@pytest.mark.parametrize(
    ("estimates", "why"),
    [
        ([], None),
        ([replace(estimate("b", None, None), cells=0)], None),
        ([estimate("a", 5.0, "USD"), estimate("b", 5.0, "USD")], None),
        (
            [estimate("a", 5.0, "USD"), estimate("b", 5.01, "USD")],
            "an expected cost of 10.01 USD exceeds max_cost (10.00)",
        ),
        ([estimate("a", 9.0, "USD"), estimate("b", 9.0, "EUR")], None),
        (
            [estimate("a", 9.0, "USD"), estimate("b", 90.0, "EUR")],
            "an expected cost of 90.00 EUR exceeds max_cost (10.00)",
        ),
        (
            [estimate("a", 1.0, "USD"), estimate("b", None, None)],
            "max_cost (10.00) cannot be checked: the cost of 'b' is unknown, because it has no prices",
        ),
        (
            [estimate("b", None, "USD", None)],
            "max_cost (10.00) cannot be checked: the cost of 'b' is unknown, because it has fewer "
            "than three evaluations with known tokens",
        ),
        (
            [estimate("b", None, "USD")],
            "max_cost (10.00) cannot be checked: the cost of 'b' is unknown, because one of its prices is "
            "missing",
        ),
    ],
)
def test_a_cost_is_compared_in_each_currency_and_an_unknown_one_is_not_zero(
    estimates: list[WorkEstimate], why: str | None
) -> None:
    assert exceeded_limit(None, 10.0, 3, estimates) == why


class Inbox:
    """A recurring evaluation with limits, of a folder that gets documents."""

    def __init__(self, databases: Databases, folder: Path, **keys: Any) -> None:
        self.databases, self.folder, self._numbers = databases, folder, count()
        folder.mkdir()
        self.applied = self.define(**keys)

    def define(self, prices: dict[str, Any] | None = PRICES, **keys: Any) -> Applied:
        content = {
            "connections": [{"name": "model", "provider": "openai", "model": "m", "prices": prices}],
            "prompts": [{"name": "clarity", "text": "Is it clear?"}],
            "recurring": [
                {
                    "name": "inbox",
                    "schedule": "0 1 * * *",
                    "folders": [str(self.folder)],
                    "connections": ["model"],
                    "prompts": ["clarity"],
                    **keys,
                }
            ],
        }
        return apply_evaluation(self.databases.doc_eval, locate(content, None, key_path))

    def made(self, documents: int) -> int:
        """The batch of the next time, of some new documents, with its first three steps done."""
        for number, _ in zip(self._numbers, range(documents), strict=False):
            write_old(self.folder / f"{number}.txt", f"document {number}")
        with self.databases.doc_eval.connect() as connection:
            record = find_recurring(connection, "inbox")
        made = make_occurrence(self.databases, record, next(NIGHTS))
        assert made.batch_id is not None
        seal_batch(self.databases, made.batch_id)
        assign_documents(self.databases, made.batch_id)
        store_documents(self.databases, made.batch_id, lambda *_: None)
        return made.batch_id

    def staged(self, documents: int) -> tuple[int, Queued]:
        number = self.made(documents)
        return number, queue_evaluations(self.databases, number)

    def progress(self, batch_id: int) -> BatchProgress:
        progress = batch_progress(self.databases, str(batch_id))
        return progress

    def words(self, batch_id: int) -> dict[str, int]:
        with self.databases.knowledge.connect() as connection:
            statement = "SELECT status, count(*) FROM llm_responses WHERE batch_id = :id GROUP BY 1"
            return dict(connection.execute(text(statement), {"id": batch_id}).tuples().all())

    def answer(self, batch_id: int) -> None:
        """As a processor, which takes only rows that are queued."""
        with self.databases.knowledge.begin() as connection:
            connection.execute(
                text("""
                    UPDATE llm_responses SET status = 'S', overall_score = 80, response_text = 'Clear.',
                        input_tokens = 1000000 + id, output_tokens = 100000
                    WHERE batch_id = :id AND status = 'QUEUED'"""),
                {"id": batch_id},
            )

    def completed(self, batch_id: int) -> None:
        self.answer(batch_id)
        poll(self.databases)
        assert self.progress(batch_id).batch.status is Status.COMPLETED


def test_a_batch_of_too_many_documents_is_held_until_a_person_releases_it_and_never_again(
    databases: Databases, tmp_path: Path
) -> None:
    inbox = Inbox(databases, tmp_path / "inbox", max_documents=2)
    assert inbox.applied.notes == []
    within, queued = inbox.staged(2)
    assert queued.held is None
    assert inbox.words(within) == {"QUEUED": 2}

    over, queued = inbox.staged(3)
    reason = "3 documents exceed max_documents (2)"
    assert queued.held == reason
    assert f"held: {reason}" in queued.sentence
    assert inbox.words(over) == {"PAUSED": 3}
    progress = inbox.progress(over)
    assert progress.batch.status is Status.PAUSED
    assert progress.as_json()["held_reason"] == reason
    assert progress.as_json()["recurring"]["name"] == "inbox"
    assert progress.notices == (
        f"held: {reason}; doceval resume {over} releases its evaluations, doceval cancel {over} closes them",
    )
    for rescan in (False, True):
        with pytest.raises(BatchStateError, match=f"is paused.*doceval resume {over} first"):
            reprocess(databases, over, Mode.all, lambda *_: None, rescan=rescan)
    # A person who pauses what is held already does not take the reason away.
    pause(databases, over)
    assert inbox.progress(over).batch.held_reason == reason

    assert resume(databases, over) == 3
    assert inbox.words(over) == {"QUEUED": 3}
    reprocess(databases, over, Mode.missing, lambda *_: None, rescan=True)
    assert inbox.words(over) == {"QUEUED": 3}
    assert inbox.progress(over).as_json()["held_reason"] is None
    # Paused by a person, it is not shown as held.
    pause(databases, over)
    assert inbox.progress(over).notices == ()
    resume(databases, over)
    inbox.completed(over)


def test_a_held_batch_can_be_cancelled(databases: Databases, tmp_path: Path) -> None:
    inbox = Inbox(databases, tmp_path / "inbox", max_documents=1)
    over, _ = inbox.staged(2)
    assert cancel(databases, over) == 2
    poll(databases)
    batch = inbox.progress(over).batch
    assert (batch.status, batch.held_reason) == (Status.FAILED, None)


def test_a_cost_limit_holds_what_is_expected_to_cost_more_and_what_cannot_be_known(
    databases: Databases, tmp_path: Path
) -> None:
    inbox = Inbox(databases, tmp_path / "inbox", max_cost=10, prices=None)
    assert inbox.applied.notes == [
        "inbox: input or output price is missing for model, so max_cost cannot be checked and every batch "
        "with evaluations to process will be held: add prices"
    ]
    first, queued = inbox.staged(3)
    assert "is unknown, because it has no prices" in str(queued.held)
    assert inbox.define(max_cost=10).notes == []
    resume(databases, first)
    # About 2.00 for the input and 1.00 for the output of each.
    inbox.completed(first)

    within, queued = inbox.staged(3)
    assert queued.held is None
    over, queued = inbox.staged(4)
    # Estimates by the sizes of documents, whose texts have different numbers in them.
    assert queued.held is not None
    assert re.fullmatch(r"an expected cost of 12\.\d\d USD exceeds max_cost \(10\.00\)", queued.held)
    assert inbox.words(over) == {"PAUSED": 4}
    assert inbox.words(within) == {"QUEUED": 3}


def test_apply_says_that_a_cost_limit_is_compared_in_each_currency(
    databases: Databases, tmp_path: Path
) -> None:
    content = {
        "connections": [
            {"name": c, "provider": "p", "model": "m", "prices": {**PRICES, "currency": c}}
            for c in ("USD", "EUR")
        ],
        "prompts": [{"name": "clarity", "text": "Is it clear?"}],
        "recurring": [
            {
                "name": "inbox",
                "on_arrival": True,
                "folders": [str(tmp_path)],
                "connections": ["USD", "EUR"],
                "prompts": ["clarity"],
                "max_cost": 2.5,
            }
        ],
    }
    applied = apply_evaluation(databases.doc_eval, locate(content, None, key_path))
    assert applied.notes == [
        "inbox: its prices are in EUR and USD; max_cost (2.5) applies to each currency separately"
    ]


def test_reused_results_cost_nothing_and_hold_nothing(databases: Databases, tmp_path: Path) -> None:
    inbox = Inbox(databases, tmp_path / "inbox", scope="all", skip_if_nothing_new=False)
    first, _ = inbox.staged(3)
    inbox.completed(first)
    inbox.define(max_documents=2, max_cost=0, scope="all", skip_if_nothing_new=False)
    second, queued = inbox.staged(0)
    assert (queued.reused, queued.held) == (3, None)
    poll(databases)
    assert inbox.progress(second).batch.status is Status.COMPLETED
    third = inbox.made(1)
    # Asked for with new attempts of all, it gets none before a person releases it.
    queued, attempts = queue_attempts(databases, third, Mode.all, None)
    assert (queued.reused, queued.held, attempts) == (0, "4 documents exceed max_documents (2)", 0)
    assert inbox.words(third) == {"PAUSED": 4}


class _Killed(BaseException):
    pass


def killed(*_: object) -> None:
    raise _Killed


@pytest.mark.parametrize(("documents", "then"), [(2, "QUEUED"), (3, "PAUSED")])
@pytest.mark.parametrize("at", ["_hold_if_too_large", "held_reason", "transition"])
def test_killed_between_queueing_and_holding_it_is_decided_by_the_next_staging(
    databases: Databases,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    documents: int,
    then: str,
) -> None:
    inbox = Inbox(databases, tmp_path / "inbox", max_documents=2)
    number = inbox.made(documents)
    with monkeypatch.context() as patched:
        patched.setattr(steps, at, killed)
        with pytest.raises(_Killed):
            queue_evaluations(databases, number)
    before = inbox.words(number)
    # Released only once it is known to be within the limits.
    assert before == {"QUEUED" if then == "QUEUED" and at == "transition" else "PAUSED": documents}
    if at == "transition":
        assert inbox.progress(number).batch.held_reason is None
    queued = queue_evaluations(databases, number)
    assert inbox.words(number) == {then: documents}
    assert (queued.held is not None) == (then == "PAUSED")
    assert inbox.progress(number).batch.status is (Status.PAUSED if queued.held else Status.STAGED)


def test_a_batch_is_held_although_a_killed_run_released_it_before_prices_changed(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(databases, tmp_path / "inbox", max_documents=2)
    number = inbox.made(2)
    with monkeypatch.context() as patched:
        patched.setattr(steps, "transition", killed)
        with pytest.raises(_Killed):
            queue_evaluations(databases, number)
    assert inbox.words(number) == {"QUEUED": 2}
    with monkeypatch.context() as patched:
        patched.setattr(steps, "held_reason", lambda *_: "a price has changed")
        assert queue_evaluations(databases, number).held
    assert inbox.words(number) == {"PAUSED": 2}


def test_no_processor_sees_a_row_before_it_is_held(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that claims at every moment at which the staging has committed something."""
    inbox = Inbox(databases, tmp_path / "inbox", max_documents=2)
    number = inbox.made(3)
    claimed: list[Any] = []

    def claim() -> None:
        with databases.knowledge.begin() as connection:
            claimed.extend(connection.execute(text("SELECT * FROM claim_responses(10)")))

    def beside(function: Any) -> Any:
        def act(*arguments: Any, **options: Any) -> Any:
            claim()
            try:
                return function(*arguments, **options)
            finally:
                claim()

        return act

    for module, name in (
        (queue, "enqueue"),
        (queue, "hold"),
        (queue, "count_queued"),
        (steps, "held_reason"),
        (steps, "_enqueue"),
        (steps, "_hold_if_too_large"),
        (steps, "transition"),
    ):
        monkeypatch.setattr(module, name, beside(getattr(module, name)))
    assert queue_evaluations(databases, number).held
    claim()
    assert claimed == []
    assert inbox.words(number) == {"PAUSED": 3}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


def test_the_receiver_gets_one_message_why_a_batch_is_held(
    databases: Databases, tmp_path: Path, receiver: Receiver
) -> None:
    settings = replace(
        databases.settings,
        webhook_url=receiver.url,
        webhook_secret="whsec_" + "c2VzYW1lIG9wZW4gc2VzYW1lIG9wZW4gc2VzYW1l",
        ui_url="https://dagster.example.com",
    )
    notifier = replace(databases, settings=settings)
    inbox = Inbox(databases, tmp_path / "inbox", max_documents=1)
    over, _ = inbox.staged(2)
    released, _ = inbox.staged(2)
    resume(databases, released)
    for _ in range(3):
        send_pending(notifier)
        pause(databases, over)
    (message,) = receiver.messages
    body = json.loads(message.body)
    assert shape(documented("batch.held")) == shape(body)
    assert body["data"] == {
        "batch": over,
        "partition": f"batch-{over:06d}",
        "name": inbox.progress(over).batch.name,
        "status": "PAUSED",
        "reason": "2 documents exceed max_documents (1)",
        "url": f"https://dagster.example.com/assets/queue_rows?partition=batch-{over:06d}",
    }
    resume(databases, over)
    send_pending(notifier)
    assert len(receiver.messages) == 1
