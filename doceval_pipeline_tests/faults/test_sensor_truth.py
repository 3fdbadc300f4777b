"""What the sensor asks at each tick, while 16 writers commit out of order: nothing missed or doubled."""

import random
from collections import Counter
from contextlib import closing
from typing import Protocol

import psycopg2
import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.knowledge.digests import digests
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.faults.environment import Environment
from doceval_pipeline_tests.faults.sizes import SEED, short_and_full
from doceval_pipeline_tests.faults.writers import CHANGES_OF_A_ROW, Work, row_sets, start_writers

CELLS_OF_A_DOCUMENT = 20
QUIET_TICKS = 3
ROWS = text("SELECT batch_id, id FROM llm_responses ORDER BY batch_id, id")
LATER_THAN = text("""
    SELECT batch_id, count(*), max(completed_processing_at) FROM llm_responses
    WHERE completed_processing_at > :last GROUP BY batch_id
""")


class Ticking(Protocol):
    """Something that finds at each tick which batches were completed, and with what result."""

    def tick(self) -> list[tuple[int, str]]: ...


class Sensor:
    """As the sensor response_status does it."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._version, self._reported = 0, dict[int, str]()

    def tick(self) -> list[tuple[int, str]]:
        found = poll(self._databases, self._version, self._reported)
        self._version, self._reported = found.version, found.reports
        return [(seen.batch.id, str(seen.digest)) for seen in found.completed]


class TimestampCursor:
    """As it must not be done: count what is later than the latest that was seen."""

    def __init__(self, databases: Databases, expected: int) -> None:
        self._databases = databases
        self._expected = expected
        self._last = psycopg2.Timestamp(2000, 1, 1)
        self._done: Counter[int] = Counter()

    def tick(self) -> list[tuple[int, str]]:
        with self._databases.knowledge.connect() as connection:
            rows = list(connection.execute(LATER_THAN, {"last": self._last}))
        self._last = max((row[2] for row in rows), default=self._last)
        self._done.update({row[0]: row[1] for row in rows})
        return [(row[0], str(self._done[row[0]])) for row in rows if self._done[row[0]] >= self._expected]


def staged(environment: Environment, batches: int, documents: int) -> list[Sample]:
    samples = environment.new_batches(batches, documents, connections=5, prompts=CELLS_OF_A_DOCUMENT // 5)
    for sample in samples:
        sample.stage()
    return samples


def written(environment: Environment, ticking: Ticking) -> tuple[list[tuple[int, str]], int]:
    """Change every row of all batches, and one more of each completed batch; ticks go on meanwhile.

    Gives the completions that were found, and how many changes were committed.
    """
    with environment.databases.knowledge.connect() as connection:
        rows = [(row[0], row[1]) for row in connection.execute(ROWS)]
    work = Work(list(row_sets(rows, random.Random(SEED)))[::-1])
    writers = start_writers(environment.databases.settings.home, work)
    completions: list[tuple[int, str]] = []
    flipped: set[int] = set()
    quiet = 0
    while quiet < QUIET_TICKS and not work.is_over:
        was_written = work.is_written
        found = ticking.tick()
        completions += found
        for batch in {batch for batch, _ in found} - flipped:
            flipped.add(batch)
            work.flip(batch)
        quiet = quiet + 1 if was_written and not found else 0
    work.end()
    for writer in writers:
        writer.join()
    return completions, work.changes


@short_and_full("number, documents", (10, 10), (200, 25))
def test_no_completion_is_missed_or_doubled_whatever_commits_when(
    environment: Environment, number: int, documents: int
) -> None:
    batches = staged(environment, number, documents)
    completions, changes = written(environment, Sensor(environment.databases))
    print(f"{changes} changes, {len(completions)} completions")
    assert changes == number * (documents * CELLS_OF_A_DOCUMENT * CHANGES_OF_A_ROW + 1)
    # Once when the last row was done, and once when one was changed after.
    assert Counter(batch for batch, _ in completions) == dict.fromkeys((b.id for b in batches), 2)
    assert len(set(completions)) == len(completions)
    with environment.databases.knowledge.connect() as connection:
        now = digests(connection, [batch.id for batch in batches])
    assert dict(completions) == now, "the last completion of each batch is of its result"
    assert {batch.status() for batch in batches} == {"COMPLETED"}
    environment.require_nothing_wrong()


@pytest.mark.slow
def test_a_timestamp_cursor_misses_completions_in_the_same_harness(environment: Environment) -> None:
    batches = staged(environment, 10, 10)
    completions, _ = written(environment, TimestampCursor(environment.databases, 10 * CELLS_OF_A_DOCUMENT))
    found = {batch for batch, _ in completions}
    assert found < {batch.id for batch in batches}
    assert {batch for batch, _ in Sensor(environment.databases).tick()} == {batch.id for batch in batches}


@pytest.mark.slow
def test_a_result_that_commits_after_a_later_one_was_seen_completes_the_batch(
    environment: Environment,
) -> None:
    (batch,) = staged(environment, 1, 1)
    cursor, sensor = (
        TimestampCursor(environment.databases, CELLS_OF_A_DOCUMENT),
        Sensor(environment.databases),
    )
    finish = "UPDATE llm_responses SET status = 'S', completed_processing_at = now() WHERE id {} 1"
    host = str(EmbeddedServer(environment.databases.settings.home).sockets)
    with closing(psycopg2.connect(host=host, user="postgres", dbname="KnowledgeDocuments")) as slow:
        with slow.cursor() as writing:
            writing.execute(finish.format("="))
        batch.knowledge(finish.format(">"))
        assert cursor.tick() == sensor.tick() == []
        slow.commit()
    assert cursor.tick() == [], "the timestamp is older than what was seen"
    assert [number for number, _ in sensor.tick()] == [batch.id]
