"""The sensor of recurring evaluations: which runs it requests for any database and cursor."""

import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.defs import recurring
from doceval_pipeline.defs.recurring import may_poll, recurring_evaluations, seconds_to_retry
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline_tests.batches.staging.test_recurring import define, doc_eval, write
from doceval_pipeline_tests.defs.running import QUIET, run, tick

# Whatever the time is, one of its times has passed.
PASSED = "UPDATE recurring_evaluations SET watched_from = watched_from - interval '2 days'"


def asked(result: Any) -> list[str]:
    return sorted(
        request.run_config["ops"]["make_batch"]["config"]["name"] for request in result.run_requests
    )


@pytest.mark.parametrize(
    ("not_before", "now", "may"),
    [(0, 1e9, True), (1e9, 1e9, True), (1e9 + 60, 1e9, False), (1e11, 1e9, True), (1e9 + 3e7, 1e9, True)],
)
def test_a_poll_waits_for_its_time_unless_a_clock_was_ahead(not_before: float, now: float, may: bool) -> None:
    assert may_poll(not_before, now) is may


def test_a_failed_run_is_requested_again_with_a_growing_pause() -> None:
    assert [seconds_to_retry(failed) for failed in (0, 1, 2, 7, 8, 10_000)] == [15, 30, 60, 1920, 3600, 3600]


def test_an_invalid_or_hanging_evaluation_does_not_block_the_others(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.txt")
    for name, keys in (
        ("broken", {}),
        ("hangs", {"schedule": None, "on_arrival": True}),
        ("away", {"schedule": None, "on_arrival": True}),
        ("nightly", {}),
    ):
        define(databases, tmp_path, name=name, **keys)
    doc_eval(databases, PASSED)
    doc_eval(
        databases,
        """UPDATE recurring_evaluations SET definition = '{"schedule": ["*"]}' WHERE name = 'broken'""",
    )
    doc_eval(
        databases,
        """
        UPDATE recurring_evaluations SET definition = definition || '{"folders": ["/nowhere"]}'
        WHERE name = 'away'
        """,
    )
    doc_eval(databases, "INSERT INTO folders (folder_path, folder_name) VALUES ('/nowhere', 'nowhere')")
    free = threading.Event()
    look = recurring.find_arrivals

    def hangs(databases: Databases, record: RecurringRecord, *rest: Any) -> datetime | None:
        if record.name == "hangs":
            free.wait(30)
        return look(databases, record, *rest)

    monkeypatch.setattr(recurring, "find_arrivals", hangs)
    monkeypatch.setattr(recurring, "SECONDS_FOR_POLL", 0.1)
    monkeypatch.setattr(recurring, "SECONDS_OF_GRACE", 0.0)
    results = [tick(recurring_evaluations, instance, cursor) for cursor in hostile_cursors()]
    free.set()
    assert [asked(result) for result in results] == [["nightly"]] * len(results)
    assert not any(thread.name.startswith("poll-") and thread.join(5) for thread in threading.enumerate())
    monkeypatch.setattr(recurring, "_requests", lambda *_: [])
    said = tick(recurring_evaluations, instance).skip_reason.skip_message
    assert "broken: folders is missing: add it; apply its evaluation file again" in said
    assert "folder /nowhere does not exist" in said


def hostile_cursors() -> Iterator[str | None]:
    yield None
    yield '{"next_looks": {"1": 1e400, "-5": "x"}}'
    yield '{"looks": 3}'
    yield "[" * 2_000


def test_a_time_is_requested_once_made_by_its_run_and_rejected_in_the_future(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.txt")
    define(databases, tmp_path)
    doc_eval(databases, PASSED)
    ((lost,), (request,)) = [tick(recurring_evaluations, instance).run_requests for _ in range(2)]
    assert lost.run_key == request.run_key
    with monkeypatch.context() as patched:
        patched.setattr(recurring, "make_occurrence", None)
        config = {**QUIET, **request.run_config}
        assert not run(instance, "run_recurring", None, run_config=config, tags=request.tags).success
        assert tick(recurring_evaluations, instance).run_requests == []
        patched.setattr(recurring, "seconds_to_retry", lambda failed: -failed)
        (again,) = tick(recurring_evaluations, instance).run_requests
        assert again.run_key != request.run_key
    made = run(instance, "run_recurring", None, run_config={**QUIET, **request.run_config}, tags=request.tags)
    assert made.success
    assert made.output_for_node("make_batch")["outcome"] == "MADE"
    assert tick(recurring_evaluations, instance).run_requests == []
    ops = {"make_batch": {"config": {"name": "inbox", "due_at": "2099-01-01T00:00:00+00:00"}}}
    future = run(instance, "run_recurring", None, run_config={**QUIET, "ops": ops})
    assert not future.success
    assert doc_eval(databases, "SELECT count(*) FROM occurrences") == [(1,)]
