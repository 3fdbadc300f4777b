"""Sensors that read only some of many batches at a tick still miss none."""

import random
from collections.abc import Callable

import dagster as dg
import pytest
from sqlalchemy import Connection, text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring import completion
from doceval_pipeline.defs import partitions, sensors, series
from doceval_pipeline.defs.cursors import NewBatchesCursor, ResponseStatusCursor, SeriesCursor
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.defs.running import tick

BatchOf = Callable[..., Sample]
_INSERT = text("INSERT INTO batches (id, batch_number, batch_name) VALUES (:id, :id, 'batch ' || :id)")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks that read as few batches as possible."""
    monkeypatch.setattr(sensors, "NEWEST_COMPARED", 1)
    monkeypatch.setattr(sensors, "NEXT_COMPARED", 2)
    monkeypatch.setattr(completion, "RECHECKED_BATCHES", 1)
    monkeypatch.setattr(series, "MOST_COMPARED", 1)


@pytest.fixture
def forgotten(instance: dg.DagsterInstance) -> None:
    """No partition is registered."""
    for key in instance.get_dynamic_partitions(partitions.NAME):
        instance.delete_dynamic_partition(partitions.NAME, key)


def insert(connection: Connection, number: int) -> None:
    connection.execute(_INSERT, {"id": number})


def registered(instance: dg.DagsterInstance, cursor: str | None) -> tuple[list[str], str]:
    """The partitions that a tick of `new_batches` adds, and its cursor."""
    found = tick(sensors.new_batches, instance, cursor)
    new = [key for request in found.dynamic_partitions_requests or () for key in request.partition_keys]
    if new:
        instance.add_dynamic_partitions(partitions.NAME, new)
    return new, found.cursor


@pytest.mark.usefixtures("forgotten")
def test_a_batch_that_commits_after_one_with_a_higher_id_is_registered_at_the_next_tick(
    databases: Databases, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pass over all batches does not reach it at that tick.
    monkeypatch.setattr(sensors, "NEXT_COMPARED", 1)
    with databases.doc_eval.connect() as late, late.begin():
        insert(late, 11)
        with databases.doc_eval.begin() as prompt:
            insert(prompt, 12)
        found, cursor = registered(instance, None)
        assert found == [partition_key(12)]
    found, cursor = registered(instance, cursor)
    assert found == [partition_key(11)]
    assert registered(instance, cursor)[0] == []


@pytest.mark.usefixtures("few", "forgotten")
@pytest.mark.parametrize("seed", range(5))
def test_every_batch_is_registered_within_a_pass_in_whatever_order_they_commit(
    databases: Databases, instance: dg.DagsterInstance, seed: int
) -> None:
    numbers = [*range(1, 8), *range(100, 108)]
    chance, cursor = random.Random(seed), None
    for number in chance.sample(numbers, len(numbers)):
        with databases.doc_eval.begin() as connection:
            insert(connection, number)
        if chance.random() < 0.5:
            _, cursor = registered(instance, cursor)
    # A pass may have gone half of its way.
    for _ in range(2 * (len(numbers) // sensors.NEXT_COMPARED + 1)):
        _, cursor = registered(instance, cursor)
    assert sorted(instance.get_dynamic_partitions(partitions.NAME)) == [*map(partition_key, numbers)]


@pytest.mark.usefixtures("few", "forgotten")
def test_a_batch_whose_staging_is_requested_is_registered_with_the_request(
    databases: Databases, instance: dg.DagsterInstance
) -> None:
    with databases.doc_eval.begin() as connection:
        for number in range(1, 6):
            insert(connection, number)
        connection.execute(text("UPDATE batches SET stage_requested_at = now() WHERE id = 4"))
    found = tick(sensors.new_batches, instance, NewBatchesCursor(compared=1).write())
    assert [request.partition_key for request in found.run_requests] == [partition_key(4)]
    (added,) = found.dynamic_partitions_requests
    assert list(added.partition_keys) == [partition_key(number) for number in (2, 3, 5, 4)]


@pytest.mark.usefixtures("forgotten")
def test_a_report_is_requested_together_with_the_partition_that_it_needs(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    found = tick(sensors.response_status, instance)
    assert [request.partition_key for request in found.run_requests] == [batch.key]
    (added,) = found.dynamic_partitions_requests
    assert list(added.partition_keys) == [batch.key]


@pytest.mark.usefixtures("few")
def test_late_results_of_closed_batches_are_found_one_batch_at_a_time(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batches = [batch_of(documents=1, connections=1, prompts=1, name=f"b{number}") for number in range(4)]
    for batch in batches:
        batch.stage()
    batches[0].knowledge("UPDATE llm_responses SET status = 'F'")
    cursor = None
    for _ in range(len(batches) + 1):
        cursor = tick(sensors.response_status, instance, cursor).cursor
    assert [batch.status() for batch in batches] == ["FAILED"] * 4
    batches[0].knowledge("UPDATE llm_responses SET status = 'S' WHERE batch_id IN (:id, :id + 2)")
    completed = []
    for _ in range(len(batches) + 1):
        found = tick(sensors.response_status, instance, cursor)
        cursor = found.cursor
        completed += [event.partition for event in found.asset_events]
    assert sorted(completed) == [batches[0].key, batches[2].key]
    assert [batch.status() for batch in batches] == ["COMPLETED", "FAILED", "COMPLETED", "FAILED"]


@pytest.mark.usefixtures("few")
def test_an_open_batch_is_observed_once_while_closed_batches_are_rechecked(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    closed = [batch_of(documents=1, connections=1, prompts=1, name=f"closed {n}") for n in range(3)]
    for batch in closed:
        batch.stage()
    closed[0].knowledge("UPDATE llm_responses SET status = 'S'")
    tick(sensors.response_status, instance)
    batch = batch_of(documents=1, connections=1, prompts=2, name="open")
    batch.stage()
    # As after an upgrade: everything is rechecked.
    seen, cursor = [], None
    for _ in range(6):
        found = tick(sensors.response_status, instance, cursor)
        cursor = found.cursor
        seen += [event for event in found.asset_events if event.partition == batch.key]
    assert len(seen) == 1
    state = ResponseStatusCursor.read(cursor)
    assert state.seen == state.observed > 0


@pytest.mark.usefixtures("few")
def test_a_batch_that_opened_while_a_poll_read_is_observed_by_the_next_one(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=2)
    batch.stage()
    newest = completion.poll(batch.databases).observed
    batch.doc_eval("DELETE FROM batch_progress")
    # The cursor of a poll that read the newest version before the batch was STAGED.
    cursor = ResponseStatusCursor(seen=newest, observed=newest).write()
    found = tick(sensors.response_status, instance, cursor)
    assert [event.partition for event in found.asset_events] == [batch.key]
    assert not tick(sensors.response_status, instance, found.cursor).asset_events


def _occurred(batch: Sample, name: str) -> int:
    """Record the batch as an occurrence of a recurring evaluation that failed; returns its id."""
    ((number,),) = batch.doc_eval(
        "INSERT INTO recurring_evaluations (name, definition) VALUES (:name, '{}') RETURNING id", name=name
    )
    batch.doc_eval(
        "INSERT INTO occurrences (recurring_id, due_at, outcome, reason) "
        "VALUES (:recurring, now(), 'FAILED', 'for a reason')",
        recurring=number,
    )
    return int(number)


@pytest.mark.usefixtures("few")
def test_each_series_is_compared_within_a_pass_and_deleted_ones_are_forgotten(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of()
    numbers = [_occurred(batch, f"inbox {number}") for number in range(3)]
    requested, cursor = [], SeriesCursor(written={numbers[-1] + 1: "gone"}).write()
    for _ in range(2 * len(numbers)):
        found = tick(series.fresh_series, instance, cursor)
        requested += [int(request.tags[series.TAG]) for request in found.run_requests]
        cursor = found.cursor
    assert requested == numbers
    assert SeriesCursor.read(cursor).written.keys() == set(numbers)
    batch.doc_eval("UPDATE recurring_evaluations SET name = 'post' WHERE id = :number", number=numbers[1])
    again = []
    for _ in numbers:
        found = tick(series.fresh_series, instance, cursor)
        again += [int(request.tags[series.TAG]) for request in found.run_requests]
        cursor = found.cursor
    assert again == [numbers[1]]
