"""Tells work that has stalled from work that is slow.

What counts as too long is learnt from what this installation has seen: how long rows usually wait to
be taken, and how long each connection ever needed for a cell. The decision itself is pure.
"""

from collections.abc import (
    Mapping,
    Sequence,
)
from dataclasses import (
    dataclass,
)
from enum import (
    StrEnum,
)

from doceval_pipeline.batches.databases import (
    Databases,
)
from doceval_pipeline.doc_eval.batches import (
    BatchRecord,
    batch_by_id,
    batches_in,
)
from doceval_pipeline.doc_eval.history import (
    longest_durations,
)
from doceval_pipeline.doc_eval.lifecycle import (
    OPEN,
    Status,
)
from doceval_pipeline.doc_eval.progress import (
    newest_samples,
    usual_gap,
)
from doceval_pipeline.domain.evaluations import (
    CellCounts,
)
from doceval_pipeline.domain.queue_rows import (
    DeferredRows,
    RunningRows,
    in_utc,
)
from doceval_pipeline.knowledge.counts import (
    count_cells,
    deferred_rows,
    running_rows,
)
from doceval_pipeline.reports.formatting import (
    duration,
)

# Nothing is called stalled sooner than this, whatever was learnt.
SECONDS_FLOOR = 120.0
# A connection that never finished a cell may be a slow one.
SECONDS_UNKNOWN_CONNECTION = 600.0
# How far back it is learnt how long rows wait to be taken, and how many times that long is too long.
GAP_DAYS = 30
TIMES_USUAL_GAP = 2


class Movement(StrEnum):
    """Whether a batch moves, in the words that people read."""

    MOVING = "moving"
    SLOW = "slow but moving"
    DEFERRED = "waits as its processor asked"
    UNTAKEN = "nobody takes rows"
    STUCK = "rows are taken and not finished"
    UNREADABLE = "rows hold words that nobody knows"
    AT_REST = "nothing has to move"


# A batch that moves like this goes on only if somebody does something.
STALLED = (Movement.UNTAKEN, Movement.STUCK, Movement.UNREADABLE)


@dataclass(frozen=True)
class Judgement:
    """Whether a batch moves, and a sentence with the figures it rests on."""

    movement: Movement
    sentence: str


@dataclass(frozen=True)
class Limits:
    """For how many seconds nothing may happen: until a row is taken, and on each connection."""

    untaken: float
    running: Mapping[int, float]

    def for_connection(self, connection_id: int) -> float:
        """How long a row of a connection may run."""
        return self.running.get(connection_id, SECONDS_UNKNOWN_CONNECTION)


@dataclass(frozen=True)
class Question:
    """A batch to judge: its cells, and for how many seconds none of its numbers has changed."""

    batch: BatchRecord
    cells: CellCounts
    still_for: float


def judge(
    status: Status,
    cells: CellCounts,
    still_for: float,
    running: Sequence[RunningRows],
    limits: Limits,
    deferred: DeferredRows | None = None,
) -> Judgement:
    """Say whether a batch moves. Pure.

    Parameters
    ----------
    still_for
        For how many seconds none of its numbers has changed.
    running
        Its running rows by connection, with the age of the oldest. Those under a lease come back by
        themselves, and do not stall before it ends.
    deferred
        Its waiting rows that are, or were, not to be handed out before some time.
    """
    if status not in OPEN:
        return Judgement(Movement.AT_REST, f"the batch is {status}")
    # While no number changes, no row is taken or finished: those that run have run for that long.
    ages = [(rows, max(still_for, rows.oldest_seconds or 0.0)) for rows in running]
    late = [(rows, age) for rows, age in ages if age > limits.for_connection(rows.connection_id)]
    # Those without a lease, which somebody must look after, first.
    if late:
        rows, age = min(late, key=lambda found: found[0].lease_ends is not None)
        return _stuck(rows, age, limits)
    if cells.running:
        return _slow(cells, still_for) if still_for > limits.untaken else Judgement(Movement.MOVING, "moving")
    if cells.waiting and status is not Status.PAUSED:
        return _waiting(cells.waiting, still_for, limits, deferred)
    if cells.unknown:
        return Judgement(
            Movement.UNREADABLE,
            f"{_rows(cells.unknown)} hold a word in llm_responses.status that nobody knows: correct it",
        )
    return Judgement(Movement.AT_REST, "no row waits or runs")


def judge_batches(databases: Databases, questions: Sequence[Question]) -> dict[int, Judgement]:
    """Judge batches by their running rows, and by what was learnt of their connections."""
    ids = [question.batch.id for question in questions]
    with databases.knowledge.connect() as knowledge:
        running = running_rows(knowledge, ids)
        deferred = deferred_rows(knowledge, ids)
    with databases.doc_eval.connect() as connection:
        longest = longest_durations(connection, [rows.connection_id for rows in running])
        gap = usual_gap(connection, GAP_DAYS)
    limits = Limits(
        max(SECONDS_FLOOR, TIMES_USUAL_GAP * (gap or 0.0)),
        {connection_id: max(SECONDS_FLOOR, seconds) for connection_id, seconds in longest.items()},
    )
    return {
        q.batch.id: judge(
            q.batch.status,
            q.cells,
            q.still_for,
            [rows for rows in running if rows.batch_id == q.batch.id],
            limits,
            deferred.get(q.batch.id),
        )
        for q in questions
    }


def judge_open(databases: Databases) -> dict[int, Judgement]:
    """Judge every open batch of which there are samples."""
    with databases.doc_eval.connect() as connection:
        open_batches = {batch.id: batch for batch in batches_in(connection, OPEN)}
        newest = newest_samples(connection, list(open_batches))
    return judge_batches(
        databases,
        [
            Question(open_batches[number], CellCounts(**sample.cells), sample.seconds_ago)
            for number, sample in newest.items()
        ],
    )


def judge_one(databases: Databases, batch_id: int) -> Judgement:
    """Judge one batch.

    Raises
    ------
    UnknownBatch
    """
    with databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
        newest = newest_samples(connection, [batch_id]).get(batch_id)
    with databases.knowledge.connect() as knowledge:
        cells = count_cells(knowledge, [batch_id])[batch_id]
    # Other numbers than the newest sample's are news of this moment.
    still_for = newest.seconds_ago if newest and newest.cells == cells.sample else 0.0
    return judge_batches(databases, [Question(batch, cells, still_for)])[batch_id]


def _stuck(rows: RunningRows, age: float, limits: Limits) -> Judgement:
    needed = "which has finished none yet"
    if rows.connection_id in limits.running:
        needed = f"which never needed more than {duration(limits.for_connection(rows.connection_id))}"
    late = (
        f"{_rows(rows.rows)} of {rows.connection}, {needed}, taken {duration(age)} ago or longer and not "
        "finished"
    )
    if rows.lease_ends is not None:
        return Judgement(
            Movement.SLOW,
            f"{late}; the last lease on them runs until {in_utc(rows.lease_ends)} UTC unless it is renewed, "
            "and what has no result then comes back by itself",
        )
    return Judgement(
        Movement.STUCK,
        f"{late}: see whether the processor that took them still lives",
    )


def _slow(cells: CellCounts, still_for: float) -> Judgement:
    return Judgement(
        Movement.SLOW,
        f"nothing has finished for {duration(still_for)}; {_rows(cells.running)} at work, and their "
        "connections have needed that long before",
    )


def _waiting(waiting: int, still_for: float, limits: Limits, deferred: DeferredRows | None) -> Judgement:
    """Judge a batch of which no row runs: nobody can take a row before its time."""
    if deferred and deferred.rows >= waiting:
        return Judgement(Movement.DEFERRED, deferred.sentence)
    if deferred and deferred.due_seconds is not None:
        still_for = min(still_for, deferred.due_seconds)
    if still_for <= limits.untaken:
        return Judgement(Movement.MOVING, "moving")
    return _untaken(waiting - (deferred.rows if deferred else 0), still_for)


def _untaken(waiting: int, still_for: float) -> Judgement:
    return Judgement(
        Movement.UNTAKEN,
        f"{_rows(waiting)} waiting, and none was taken for {duration(still_for)}: see whether a "
        "processor runs",
    )


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"
