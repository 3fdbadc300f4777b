"""Requests runs from Dagster: one at a time for each batch, and again after a run that did not succeed."""

import time
from collections.abc import Collection, Sequence

import dagster as dg

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.run_requests import (
    LONGEST_PAUSE,
    Runs,
    claim_run_keys,
    find_due_requests,
)
from doceval_pipeline.defs.naming import run_tags_of
from doceval_pipeline.doc_eval.batches import batch_id_of, partition_key
from doceval_pipeline.doc_eval.runs.requests import Request, RunKind
from doceval_pipeline.errors import UnknownBatch

JOBS = {RunKind.STAGE: "stage_batch", RunKind.REPORT: "report_batch"}
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
ENDED_WITHOUT_SUCCESS = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
FINISHED = (dg.DagsterRunStatus.SUCCESS, *ENDED_WITHOUT_SUCCESS)
PARTITION = "dagster/partition"
RUN_KEY = "dagster/run_key"


def requested_runs(
    instance: dg.DagsterInstance,
    databases: Databases,
    kind: RunKind,
    batch_ids: Collection[int] | None = None,
) -> list[dg.RunRequest]:
    """The runs of a kind to request now; only one caller gets each.

    Parameters
    ----------
    batch_ids
        The batches that may need one; None searches all batches.
    """
    due = find_due_requests(databases, kind, batch_ids)
    if not due:
        return []
    run_keys = claim_run_keys(databases, due, _runs_of(instance, kind, due))
    tags = run_tags_of(databases, run_keys)
    return [
        dg.RunRequest(run_key=run_key, partition_key=partition_key(number), tags=tags.get(number))
        for number, run_key in run_keys.items()
    ]


def _runs_of(instance: dg.DagsterInstance, kind: RunKind, due: Sequence[Request]) -> dict[int, Runs]:
    """The runs of requests in Dagster, by batch; requests without a run are left out."""
    working = instance.get_runs(
        dg.RunsFilter(
            job_name=JOBS[kind],
            statuses=list(UNFINISHED),
            tags={PARTITION: [partition_key(request.batch_id) for request in due]},
        )
    )
    runs = {batch_id_of(run.tags[PARTITION]): Runs(is_working=True) for run in working}
    requested = {r.run_key(r.attempt): r.batch_id for r in due if r.attempt and r.batch_id not in runs}
    if not requested:
        return runs
    ended = instance.get_run_records(
        dg.RunsFilter(job_name=JOBS[kind], statuses=list(FINISHED), tags={RUN_KEY: list(requested)}),
        ascending=True,
    )
    for record in ended:
        number = requested[record.dagster_run.tags[RUN_KEY]]
        status = record.dagster_run.status.value
        runs[number] = Runs(ended_as=status, ended_ago=seconds_since_end(record))
    return runs


def batch_of(run: dg.DagsterRun) -> int | None:
    """The batch of a run's partition; None for a run without one."""
    try:
        return batch_id_of(run.tags.get(PARTITION, ""))
    except UnknownBatch:
        return None


def seconds_since_end(record: dg.RunRecord) -> float:
    """Seconds since a finished run ended."""
    at = record.end_time or record.update_timestamp.timestamp()
    return max(0.0, time.time() - at)


def has_failed_for_long(instance: dg.DagsterInstance, runs: dg.RunsFilter) -> bool:
    """Whether the newest of the given runs failed long enough ago to request another one."""
    return any(
        record.dagster_run.status in ENDED_WITHOUT_SUCCESS and seconds_since_end(record) > LONGEST_PAUSE
        for record in instance.get_run_records(runs, limit=1)
    )
