"""The sensor that finds runs whose process died without reporting it to Dagster, and ends these runs.

Such a run would stay STARTED forever and block the next run of its batch.
"""

import time
from collections.abc import Sequence

import dagster as dg

from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.defs import (
    jobs,
    leaderboard,
    maintenance,
    recurring,
    reporting,
    responses,
    result_checks,
    series,
    staging,
)
from doceval_pipeline.defs.instance import LOCATION
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.sensors import SECONDS_BETWEEN_TICKS
from doceval_pipeline.doc_eval.runs.live import (
    DeadRun,
    find_dead,
    forget_other_runs,
    known_runs,
    mark_missing,
)

# A run takes its lock right after it has begun, when its code is loaded.
SECONDS_TO_TAKE_LOCK = 20.0
# Seconds without a lock after which a run counts as dead. A process that lost its connection, as
# all do when the server restarts, takes the lock again within 5 s.
SECONDS_MISSED = 40.0
_WITH_LOCK = {
    job.name
    for job in (
        jobs.create_batch,
        staging.stage_batch,
        jobs.report_batch,
        jobs.reprocess_batch,
        jobs.pause_batch,
        jobs.resume_batch,
        jobs.cancel_batch,
        jobs.archive_batch,
        leaderboard.refresh_leaderboard,
        recurring.run_recurring,
        recurring.pause_recurring_evaluation,
        recurring.resume_recurring_evaluation,
        recurring.delete_recurring_evaluation,
        series.refresh_series,
        maintenance.audit_databases,
        maintenance.retention,
    )
}
_ASSETS_WITH_LOCK = {
    asset.key
    for asset in (
        staging.batch_config_snapshot,
        staging.document_assignment,
        staging.encoded_documents,
        staging.queue_rows,
        reporting.completion_report,
        leaderboard.leaderboard,
        series.series,
        maintenance.audit,
    )
}
_CHECKS_WITH_LOCK = {
    key
    for checks in (
        staging.documents_round_trip,
        staging.queue_checks,
        responses.responses_keep_coming,
        result_checks.result_checks,
        reporting.completion_report,
        maintenance.audit,
    )
    for key in checks.check_keys
}


@dg.sensor(
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process has died, so that the next run of the batch can begin.",
)
def dead_runs(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SkipReason:
    """Report runs whose process has died as failed or cancelled."""
    filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    records = context.instance.get_run_records(filters)
    run_ids = [record.dagster_run.run_id for record in records]
    with database_errors(), doc_eval.open().doc_eval.begin() as connection:
        mark_missing(connection, _never_seen(records, known_runs(connection, run_ids)))
        dead = find_dead(connection, run_ids, SECONDS_MISSED)
        forget_other_runs(connection, run_ids)
    ended = [run.run_id[:8] for run in dead if _report_end(context.instance, run)]
    return dg.SkipReason(f"reported as ended: {', '.join(ended)}" if ended else "every run is alive")


def takes_lock(run: dg.DagsterRun) -> bool:
    """Whether a run has only steps of doceval, so that it holds a lock as soon as it has begun."""
    origin = run.remote_job_origin
    if origin is not None and origin.location_name != LOCATION:
        return False
    # A retry from failure may contain only steps of users.
    if run.parent_run_id is not None and run.step_keys_to_execute is not None:
        return False
    assets, checks = run.asset_selection or set(), run.asset_check_selection or set()
    if assets or checks:
        return assets <= _ASSETS_WITH_LOCK and checks <= _CHECKS_WITH_LOCK
    return run.job_name in _WITH_LOCK


def _never_seen(records: Sequence[dg.RunRecord], known: set[str]) -> list[str]:
    now = time.time()
    return [
        record.dagster_run.run_id
        for record in records
        if record.dagster_run.run_id not in known
        and takes_lock(record.dagster_run)
        and now - (record.start_time or record.create_timestamp.timestamp()) > SECONDS_TO_TAKE_LOCK
    ]


def _report_end(instance: dg.DagsterInstance, dead: DeadRun) -> bool:
    """Report to Dagster that a run has ended; False where it ended meanwhile."""
    run = instance.get_run_by_id(dead.run_id)
    if run is None or run.is_finished:
        return False
    where = "" if dead.process is None else f" {dead.process}"
    message = (
        f"The process{where} of this run died without reporting it to Dagster: see its log for the last step."
    )
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message)
    else:
        instance.report_run_failed(run, message)
    return True
