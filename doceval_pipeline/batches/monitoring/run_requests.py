"""Decides when to request a run from Dagster again: a request stays until it is fulfilled.

`decide` is pure; callers pass in the state of the runs in Dagster.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.runs.requests import (
    PendingRun,
    Request,
    RunDecision,
    RunKind,
    due_requests,
    store_decisions,
    unreported,
)

# From the end of the first attempt's run to the second attempt; doubled with each further attempt.
SECONDS_BEFORE_SECOND = 30.0
LONGEST_PAUSE = 600.0
# Dagster stores a run within this time after the request, unless Dagster is stopped first.
SECONDS_TO_APPEAR = 30.0
# Between two checks of a run that is queued or running.
SECONDS_BETWEEN_CHECKS = 10.0


@dataclass(frozen=True)
class Runs:
    """The runs of one request in Dagster.

    `is_working` says that a run of this kind is queued or running for the batch. `ended_as` is the status in
    which the run of the newest attempt ended, `ended_ago` seconds ago; None if it has not ended or is
    unknown.
    """

    is_working: bool = False
    ended_as: str | None = None
    ended_ago: float = 0.0


NO_RUNS = Runs()


def decide(request: Request, runs: Runs) -> RunDecision:
    """Whether to request a run from Dagster now, and when to check again. Pure."""
    if runs.is_working:
        return RunDecision(max(1, request.attempt), SECONDS_BETWEEN_CHECKS)
    if runs.ended_as is None:
        # The same run key again: a run that was only slow to appear does not start twice.
        return RunDecision(max(1, request.attempt), SECONDS_TO_APPEAR, is_requested=True)
    left = pause_after(request.attempt) - runs.ended_ago
    if left > 0:
        return RunDecision(request.attempt, left, ended_as=runs.ended_as, ended_ago=runs.ended_ago)
    return RunDecision(
        request.attempt + 1,
        SECONDS_TO_APPEAR,
        is_requested=True,
        ended_as=runs.ended_as,
        ended_ago=runs.ended_ago,
    )


def pause_after(attempt: int) -> float:
    """Seconds between the end of an attempt's run and the next attempt."""
    return min(LONGEST_PAUSE, SECONDS_BEFORE_SECOND * 2.0 ** min(attempt - 1, 30))


def find_due_requests(
    databases: Databases, kind: RunKind, batch_ids: Collection[int] | None = None
) -> list[Request]:
    """Requests of a kind that are new, or whose run must be checked again; None checks all batches."""
    if batch_ids is not None and not batch_ids:
        return []
    with databases.doc_eval.connect() as connection:
        return due_requests(connection, kind, batch_ids)


def claim_run_keys(
    databases: Databases, requests: Sequence[Request], runs: Mapping[int, Runs]
) -> dict[int, str]:
    """The run keys to request from Dagster now, by batch.

    Of several callers with the same requests, only one gets each key.

    Parameters
    ----------
    runs
        The requests' runs in Dagster, by batch.
    """
    decided = [(request, decide(request, runs.get(request.batch_id, NO_RUNS))) for request in requests]
    with databases.doc_eval.begin() as connection:
        ours = store_decisions(connection, decided)
    return {
        request.batch_id: request.run_key(decision.attempt)
        for request, decision in decided
        if decision.is_requested and request.batch_id in ours
    }


def missing_reports(databases: Databases, batch_ids: Iterable[int] | None = None) -> dict[int, PendingRun]:
    """Closed batches whose report is late, by number.

    Parameters
    ----------
    batch_ids
        Only these batches; None for all.
    """
    with databases.doc_eval.connect() as connection:
        return {number: run for number, run in unreported(connection, batch_ids).items() if run.is_late}
