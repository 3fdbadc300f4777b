"""Processors in large numbers: they change rows in transactions that stay open and commit out of order.

Rows are changed in sets, each set by one transaction after another, whoever takes it next. The sets of a
few batches are mixed and worked on at once, so that batches are finished all the time, by whichever of
many transactions commits last.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Thread

import psycopg2

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.faults.sizes import SEED

WRITERS = 16
ROWS_IN_A_SET = 50
SETS_AT_ONCE = 3 * WRITERS
BATCHES_IN_A_GROUP = 5
# What becomes of each row before its result is in: taken, given back, taken again.
WORDS = ("P", "PROCESSING", "R", "N", "P", "READY_TO_RETRY", "R", "PROCESSING", "P")
CHANGES_OF_A_ROW = len(WORDS) + 1
LONGEST_DELAY = 0.02
CHANGE = "UPDATE llm_responses SET status = %s WHERE id = ANY(%s)"
FINISH = """
    UPDATE llm_responses SET status = CASE WHEN id %% 7 = 0 THEN 'F' ELSE 'S' END,
        overall_score = id %% 100, completed_processing_at = now()
    WHERE id = ANY(%s)
"""
FLIP = """
    UPDATE llm_responses SET status = 'S', completed_processing_at = now()
    WHERE id = (SELECT min(id) FROM llm_responses WHERE batch_id = %s AND status = 'F')
"""


@dataclass
class RowSet:
    """Rows that are changed together, and how often they were."""

    ids: list[int]
    changes: int = 0


def row_sets(rows: Sequence[tuple[int, int]], chance: random.Random) -> Iterator[RowSet]:
    """Mix the rows of some batches at a time; `rows` are (batch, id) in the order of batches."""
    groups: dict[int, list[int]] = {}
    for batch, number in rows:
        groups.setdefault(batch // BATCHES_IN_A_GROUP, []).append(number)
    for ids in groups.values():
        chance.shuffle(ids)
        for start in range(0, len(ids), ROWS_IN_A_SET):
            yield RowSet(ids[start : start + ROWS_IN_A_SET])


@dataclass
class Work:
    """What is left to write; writers take it from here."""

    later: list[RowSet]
    now: list[RowSet] = field(default_factory=list)
    flips: list[int] = field(default_factory=list)
    taken: int = 0
    changes: int = 0
    is_over: bool = False
    changed: Condition = field(default_factory=Condition)

    def take(self, chance: random.Random) -> RowSet | int | None:
        """A set of rows, or a batch of which one row flips; None when nothing will come any more."""
        with self.changed:
            while not self.is_over:
                while self.later and len(self.now) < SETS_AT_ONCE:
                    self.now.append(self.later.pop())
                if self.flips or self.now:
                    self.taken += 1
                    return self.flips.pop() if self.flips else self.now.pop(chance.randrange(len(self.now)))
                self.changed.wait()
        return None

    def give_back(self, done: RowSet | int, rows: int) -> None:
        with self.changed:
            self.taken -= 1
            self.changes += rows
            if isinstance(done, RowSet) and done.changes < CHANGES_OF_A_ROW:
                self.now.append(done)
            self.changed.notify_all()

    def flip(self, batch: int) -> None:
        """Ask for one more change of a batch that was found to be complete."""
        with self.changed:
            self.flips.append(batch)
            self.changed.notify_all()

    @property
    def is_written(self) -> bool:
        """Whether all that was asked for is committed."""
        with self.changed:
            return not (self.later or self.now or self.flips or self.taken)

    def end(self) -> None:
        with self.changed:
            self.is_over = True
            self.changed.notify_all()


def start_writers(home: Path, work: Work) -> list[Thread]:
    """Let all writers begin, each on a connection of its own."""
    threads = [Thread(target=_write, args=(home, work, number), daemon=True) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    return threads


def _write(home: Path, work: Work, number: int) -> None:
    host, database = str(EmbeddedServer(home).sockets), "KnowledgeDocuments"
    try:
        with closing(psycopg2.connect(host=host, user="postgres", dbname=database)) as connection:
            _write_on(connection, work, random.Random(SEED + number))
    finally:
        # Also where it fails: nobody waits for changes that do not come.
        work.end()


def _write_on(connection: "psycopg2.extensions.connection", work: Work, chance: random.Random) -> None:
    while (task := work.take(chance)) is not None:
        with connection, connection.cursor() as cursor:
            if isinstance(task, int):
                cursor.execute(FLIP, (task,))
            elif task.changes < len(WORDS):
                cursor.execute(CHANGE, (WORDS[task.changes], task.ids))
            else:
                cursor.execute(FINISH, (task.ids,))
            rows = cursor.rowcount
            # Written, and not yet committed: others come first.
            cursor.execute("SELECT pg_sleep(%s)", (chance.uniform(0, LONGEST_DELAY),))
        if isinstance(task, RowSet):
            task.changes += 1
        work.give_back(task, rows)
