"""Decides when Dagster is asked for a run again: a request stays until it is fulfilled.

`decide` is pure; callers pass in what Dagster reports.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.runs.requests import (
    Answer,
    Kind,
    Request,
    Waiting,
    due_requests,
    keep_answers,
    unreported,
)

# Until the second attempt, after the run of the first has ended; doubled with each further one.
SECONDS_BEFORE_SECOND = 30.0
LONGEST_PAUSE = 600.0
# Dagster stores a run within this time after it was asked for one, or was stopped before it could.
SECONDS_TO_APPEAR = 30.0
# Between two looks at a run that waits or works.
SECONDS_BETWEEN_LOOKS = 10.0


@dataclass(frozen=True)
class Runs:
    """What Dagster knows of the runs of one request.

    `is_working` where any run of this kind waits or works on the batch; `ended_as` is the status in which
    the run of the newest attempt ended, `ended_ago` seconds ago, None where it did not end or is unknown.
    """

    is_working: bool = False
    ended_as: str | None = None
    ended_ago: float = 0.0


NONE = Runs()


def decide(request: Request, runs: Runs) -> Answer:
    """Say whether Dagster is asked for a run now, and when to look again. Pure."""
    if runs.is_working:
        return Answer(max(1, request.attempt), SECONDS_BETWEEN_LOOKS)
    if runs.ended_as is None:
        # The same run key again: a run that was only slow to appear is not doubled.
        return Answer(max(1, request.attempt), SECONDS_TO_APPEAR, is_asked=True)
    left = pause_after(request.attempt) - runs.ended_ago
    if left > 0:
        return Answer(request.attempt, left, ended_as=runs.ended_as, ended_ago=runs.ended_ago)
    return Answer(
        request.attempt + 1,
        SECONDS_TO_APPEAR,
        is_asked=True,
        ended_as=runs.ended_as,
        ended_ago=runs.ended_ago,
    )


def pause_after(attempt: int) -> float:
    """Seconds between the end of an attempt's run and the next attempt."""
    return min(LONGEST_PAUSE, SECONDS_BEFORE_SECOND * 2.0 ** min(attempt - 1, 30))


def look_up(databases: Databases, kind: Kind) -> list[Request]:
    """Requests of a kind that are new, or whose run has to be looked at again."""
    with databases.doc_eval.connect() as connection:
        return due_requests(connection, kind)


def answer(databases: Databases, requests: Sequence[Request], runs: Mapping[int, Runs]) -> dict[int, str]:
    """The run keys to ask Dagster for now, by batch.

    Of several callers that look at the same requests at once, one gets each key.

    Parameters
    ----------
    runs
        What Dagster knows of the requests' runs, by batch.
    """
    answers = [(request, decide(request, runs.get(request.batch_id, NONE))) for request in requests]
    with databases.doc_eval.begin() as connection:
        ours = keep_answers(connection, answers)
    return {
        request.batch_id: request.run_key(given.attempt)
        for request, given in answers
        if given.is_asked and request.batch_id in ours
    }


def missing_reports(databases: Databases, batch_ids: Iterable[int] | None = None) -> dict[int, Waiting]:
    """Closed batches whose newest result should have a report by now and has none, by number.

    Parameters
    ----------
    batch_ids
        Only these batches; None for all.
    """
    with databases.doc_eval.connect() as connection:
        return {number: found for number, found in unreported(connection, batch_ids).items() if found.is_late}
