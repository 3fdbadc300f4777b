"""Finds runs that ended before they began, such as runs that Dagster could not start on a busy machine."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from doceval_pipeline.defs.jobs import create_batch, report_batch
from doceval_pipeline.defs.reporting import completion_report
from doceval_pipeline.defs.requests import PARTITION, RUN_KEY, batch_of
from doceval_pipeline.defs.staging import STAGING_ASSETS, stage_batch
from doceval_pipeline.doc_eval.runs.lost import LostRun
from doceval_pipeline.doc_eval.runs.requests import RunKind

DAYS_NAMED = 7
# How many of the newest failures are searched; a working installation has few.
MOST_FAILURES = 500
_ROOT_RUN = "dagster/root_run_id"
_ASSETS_OF_JOBS = {
    stage_batch.name: STAGING_ASSETS,
    report_batch.name: frozenset({completion_report.key}),
}


def lost_runs(instance: dg.DagsterInstance) -> list[LostRun]:
    """Runs of batches that ended as FAILURE before they began, and that no later run has replaced.

    Requested runs are left out: they are requested again.
    """
    since = datetime.now(UTC) - timedelta(days=DAYS_NAMED)
    failed = instance.get_run_records(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since), limit=MOST_FAILURES
    )
    lost = [record for record in failed if record.start_time is None and _is_of_a_batch(record.dagster_run)]
    if not lost:
        return []
    replaced = _replaced(instance, lost)
    return [_as_lost(record) for record in lost if record.dagster_run.run_id not in replaced]


def _is_of_a_batch(run: dg.DagsterRun) -> bool:
    if run.tags.get(RUN_KEY, "").startswith(tuple(f"{kind}-" for kind in RunKind)):
        return False
    return run.job_name == create_batch.name or batch_of(run) is not None


def _replaced(instance: dg.DagsterInstance, lost: Sequence[dg.RunRecord]) -> set[str]:
    """The lost runs after which a re-execution, or another run of the same job and batch, has begun."""
    roots = [record.dagster_run.root_run_id or record.dagster_run.run_id for record in lost]
    keys = {record.dagster_run.tags[PARTITION] for record in lost if PARTITION in record.dagster_run.tags}
    filters = [dg.RunsFilter(tags={_ROOT_RUN: roots})]
    if keys:
        oldest = min(record.create_timestamp for record in lost)
        filters.append(dg.RunsFilter(tags={PARTITION: sorted(keys)}, created_after=oldest))
    later = [record for each in filters for record in instance.get_run_records(each)]
    return {
        record.dagster_run.run_id
        for record in lost
        if any(_replaces(other, record) for other in later if other.start_time is not None)
    }


def _replaces(other: dg.RunRecord, lost: dg.RunRecord) -> bool:
    if other.storage_id <= lost.storage_id:
        return False
    run, before = other.dagster_run, lost.dagster_run
    if run.root_run_id is not None and run.root_run_id in (before.run_id, before.root_run_id):
        return True
    if PARTITION not in before.tags or run.tags.get(PARTITION) != before.tags[PARTITION]:
        return False
    if not before.asset_selection:
        return run.job_name == before.job_name
    # Assets are materialized by a run of the assets themselves, or by the job that selects all of them.
    return before.asset_selection <= (run.asset_selection or _ASSETS_OF_JOBS.get(run.job_name, frozenset()))


def _as_lost(record: dg.RunRecord) -> LostRun:
    run = record.dagster_run
    ended = record.end_time or time.time()
    return LostRun(
        run.run_id,
        run.job_name,
        batch_of(run),
        _name_to_create(run) if run.job_name == create_batch.name else None,
        datetime.fromtimestamp(ended, UTC),
    )


def _name_to_create(run: dg.DagsterRun) -> str | None:
    """The name in the config of `create_batch`, without characters that cannot be stored."""
    name: object = run.run_config
    for step in ("ops", "create", "config", "name"):
        name = name.get(step) if isinstance(name, dict) else None
    if not isinstance(name, str):
        return None
    return name[:200].replace("\0", "").encode(errors="replace").decode()
