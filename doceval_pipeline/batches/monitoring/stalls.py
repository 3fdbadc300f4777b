"""Distinguishes stalled work from slow work.

The limits come from what this installation has recorded: how long rows usually wait until a processor takes
them, and the longest time that each connection needed for an evaluation. The decision itself is pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, batches_in
from doceval_pipeline.doc_eval.history import longest_durations
from doceval_pipeline.doc_eval.lifecycle import OPEN, Status
from doceval_pipeline.doc_eval.progress import newest_samples, usual_gap
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.queue_rows import DeferredRows, RunningRows, in_utc
from doceval_pipeline.knowledge.counts import count_cells, deferred_rows, running_rows
from doceval_pipeline.reports.formatting import counted, duration

# No batch counts as stalled earlier than this, whatever was recorded.
SECONDS_FLOOR = 120.0
# A connection without any finished evaluation may be a slow one.
SECONDS_UNKNOWN_CONNECTION = 600.0
# Days of history from which the usual wait of a row is computed, and the multiple of it that is too long.
GAP_DAYS = 30
TIMES_USUAL_GAP = 2


class WorkState(StrEnum):
    """Whether a batch progresses. The values are public: `doceval status --json` and metadata hold them."""

    MOVING = "moving"
    SLOW = "slow but moving"
    DEFERRED = "waits as its processor asked"
    UNTAKEN = "nobody takes rows"
    STUCK = "rows are taken and not finished"
    UNREADABLE = "rows hold words that nobody knows"
    AT_REST = "nothing has to move"

    @property
    def label(self) -> str:
        """The state in the words of the terminal."""
        return _LABELS.get(self, self.value)


_LABELS = {
    WorkState.DEFERRED: "waiting, as its processor asked",
    WorkState.UNTAKEN: "no processor takes rows",
    WorkState.UNREADABLE: "rows have an unknown status",
    WorkState.AT_REST: "no work pending",
}
# Such a batch continues only if a person acts.
STALLED = (WorkState.UNTAKEN, WorkState.STUCK, WorkState.UNREADABLE)


@dataclass(frozen=True)
class StallAssessment:
    """Whether a batch progresses, and a sentence with the figures behind that."""

    state: WorkState
    sentence: str

    def as_json(self) -> dict[str, str]:
        """The shape that `doceval status --json` prints under `movement`."""
        return {"movement": self.state.value, "sentence": self.sentence}


@dataclass(frozen=True)
class Limits:
    """For how many seconds a row may wait to be taken, and run on each connection."""

    untaken: float
    running: Mapping[int, float]

    def for_connection(self, connection_id: int) -> float:
        """How many seconds a row of a connection may run."""
        return self.running.get(connection_id, SECONDS_UNKNOWN_CONNECTION)


@dataclass(frozen=True)
class StallInput:
    """A batch to assess: its evaluations, and the seconds since any of its counts last changed."""

    batch: BatchRecord
    cells: CellCounts
    seconds_unchanged: float


def assess(
    status: Status,
    cells: CellCounts,
    seconds_unchanged: float,
    running: Sequence[RunningRows],
    limits: Limits,
    deferred: DeferredRows | None = None,
) -> StallAssessment:
    """Whether a batch progresses. Pure.

    Parameters
    ----------
    seconds_unchanged
        Since any of its counts last changed.
    running
        Its running rows by connection, with the age of the oldest. Rows under a lease return to the queue
        when it ends, and do not count as stalled before.
    deferred
        Its waiting rows that must not be handed out before some time, or that were deferred until now.
    """
    if status not in OPEN:
        return StallAssessment(WorkState.AT_REST, f"the batch is {status}")
    # While no count changes, no row is taken or finished: running rows have run for at least that long.
    ages = [(rows, max(seconds_unchanged, rows.oldest_seconds or 0.0)) for rows in running]
    late = [(rows, age) for rows, age in ages if age > limits.for_connection(rows.connection_id)]
    # Rows without a lease first: only a person can release them.
    if late:
        rows, age = min(late, key=lambda pair: pair[0].lease_ends is not None)
        return _stuck(rows, age, limits)
    if cells.running:
        return (
            _slow(cells, seconds_unchanged)
            if seconds_unchanged > limits.untaken
            else StallAssessment(WorkState.MOVING, "moving")
        )
    if cells.waiting and status is not Status.PAUSED:
        return _waiting(cells.waiting, seconds_unchanged, limits, deferred)
    if cells.unknown:
        return StallAssessment(
            WorkState.UNREADABLE,
            f"{counted(cells.unknown, 'row has', 'rows have')} an unknown status: fix llm_responses.status",
        )
    return StallAssessment(WorkState.AT_REST, "no row is waiting or running")


def assess_batches(databases: Databases, inputs: Sequence[StallInput]) -> dict[int, StallAssessment]:
    """Assess batches by their running rows and by the recorded durations of their connections."""
    ids = [each.batch.id for each in inputs]
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
        each.batch.id: assess(
            each.batch.status,
            each.cells,
            each.seconds_unchanged,
            [rows for rows in running if rows.batch_id == each.batch.id],
            limits,
            deferred.get(each.batch.id),
        )
        for each in inputs
    }


def assess_open_batches(databases: Databases) -> dict[int, StallAssessment]:
    """Assess every open batch that has samples."""
    with databases.doc_eval.connect() as connection:
        open_batches = {batch.id: batch for batch in batches_in(connection, OPEN)}
        newest = newest_samples(connection, list(open_batches))
    return assess_batches(
        databases,
        [
            StallInput(open_batches[number], sample.cells, sample.seconds_ago)
            for number, sample in newest.items()
        ],
    )


def assess_batch(databases: Databases, batch_id: int) -> StallAssessment:
    """Assess one batch.

    Raises
    ------
    UnknownBatch
    """
    with databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
        newest = newest_samples(connection, [batch_id]).get(batch_id)
    with databases.knowledge.connect() as knowledge:
        cells = count_cells(knowledge, [batch_id])[batch_id]
    # Counts that differ from the newest sample have changed just now.
    seconds_unchanged = newest.seconds_ago if newest and newest.cells == cells else 0.0
    return assess_batches(databases, [StallInput(batch, cells, seconds_unchanged)])[batch_id]


def _stuck(rows: RunningRows, age: float, limits: Limits) -> StallAssessment:
    needed = "which has not finished any yet"
    if rows.connection_id in limits.running:
        needed = f"which never needed more than {duration(limits.for_connection(rows.connection_id))}"
    late = (
        f"{_rows(rows.rows)} of {rows.connection}, {needed}, taken {duration(age)} ago or longer and not "
        "finished"
    )
    if rows.lease_ends is not None:
        return StallAssessment(
            WorkState.SLOW,
            f"{late}; the last lease on them runs until {in_utc(rows.lease_ends)} UTC unless it is renewed, "
            "and rows without a result then return to the queue",
        )
    return StallAssessment(
        WorkState.STUCK,
        f"{late}: check whether the processor that took them is still running",
    )


def _slow(cells: CellCounts, seconds_unchanged: float) -> StallAssessment:
    return StallAssessment(
        WorkState.SLOW,
        f"no evaluation has finished for {duration(seconds_unchanged)}; {_rows(cells.running)} running, and "
        "their connections have needed that long before",
    )


def _waiting(
    waiting: int, seconds_unchanged: float, limits: Limits, deferred: DeferredRows | None
) -> StallAssessment:
    """Assess a batch without running rows: deferred rows cannot be taken yet."""
    if deferred and deferred.rows >= waiting:
        return StallAssessment(WorkState.DEFERRED, deferred.sentence)
    if deferred and deferred.due_seconds is not None:
        seconds_unchanged = min(seconds_unchanged, deferred.due_seconds)
    if seconds_unchanged <= limits.untaken:
        return StallAssessment(WorkState.MOVING, "moving")
    return _untaken(waiting - (deferred.rows if deferred else 0), seconds_unchanged)


def _untaken(waiting: int, seconds_unchanged: float) -> StallAssessment:
    return StallAssessment(
        WorkState.UNTAKEN,
        f"{_rows(waiting)} waiting, and no row was taken for {duration(seconds_unchanged)}: check whether a "
        "processor is running",
    )


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"
