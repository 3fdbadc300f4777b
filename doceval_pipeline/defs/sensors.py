"""Sensors: each reads the current state, decides in the core, and passes the decision to Dagster.

All are level-triggered: the next tick repeats a tick that was killed. Stored requests and run keys prevent
a run from starting twice.
"""

from collections import defaultdict

import dagster as dg

from doceval_pipeline.batches import locks
from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.batches.monitoring import completion
from doceval_pipeline.batches.monitoring.run_requests import missing_reports
from doceval_pipeline.batches.monitoring.stalls import (
    STALLED,
    StallAssessment,
    WorkState,
    assess_open_batches,
)
from doceval_pipeline.batches.monitoring.status import batch_throughputs
from doceval_pipeline.batches.monitoring.throughput import BatchThroughput
from doceval_pipeline.batches.staging import steps as staging
from doceval_pipeline.batches.staging.reprocessing import finish_pauses_and_cancels
from doceval_pipeline.batches.webhook import notifications
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.catalog import row_count
from doceval_pipeline.defs.cursors import NewBatchesCursor, ResponseStatusCursor, StalledWorkCursor
from doceval_pipeline.defs.jobs import report_batch, reprocess_batch
from doceval_pipeline.defs.lost_runs import lost_runs
from doceval_pipeline.defs.naming import NAME, names_of, shown_name
from doceval_pipeline.defs.reporting import report_evaluation
from doceval_pipeline.defs.requests import ENDED_WITHOUT_SUCCESS, PARTITION, requested_runs
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.responses import evaluation_of, llm_responses
from doceval_pipeline.defs.staging import STAGING_ASSETS, stage_batch
from doceval_pipeline.doc_eval.batches import newest_and_next, partition_key, staging_batches
from doceval_pipeline.doc_eval.runs.lost import replace_lost
from doceval_pipeline.doc_eval.runs.requests import PendingRun, RunKind

# Dagster evaluates sensors every 5 s and skips a sensor whose minimum interval has not passed. With 5 s,
# every second or third tick would come some milliseconds too early and be skipped.
SECONDS_BETWEEN_TICKS = 4
# A stall lasts minutes.
SECONDS_BETWEEN_ASSESSMENTS = 30
# How many batches a tick of `new_batches` compares with the partitions in Dagster: the newest ones, and the
# next ones of its pass, which takes a quarter of an hour for 100,000. The look-up of 1,000 keys takes 3 ms.
NEWEST_COMPARED, NEXT_COMPARED = 500, 500
# How many runs of a batch are searched for the newest one that stages it.
RUNS_SEARCHED = 50


@dg.sensor(
    job=stage_batch,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for each new batch, and requests the staging of batches that wait for it.",
)
def new_batches(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Add partitions and request staging runs.

    Each tick compares the newest batches, those that it requests runs for, and the next ones of a pass over
    all batches. The pass finds batches that committed long after batches with higher ids.
    """
    cursor = NewBatchesCursor.read(context.cursor)
    with database_errors():
        databases = doc_eval.open()
        with databases.doc_eval.connect() as connection:
            ids = newest_and_next(connection, cursor.compared, NEWEST_COMPARED, NEXT_COMPARED)
        requests = requested_runs(context.instance, databases, RunKind.STAGE)
    new = partitions.unregistered(context.instance, [*map(partition_key, ids), *partitions.of_runs(requests)])
    following = [number for number in ids if number > cursor.compared][:NEXT_COMPARED]
    is_over = len(following) < NEXT_COMPARED
    return dg.SensorResult(
        dynamic_partitions_requests=[partitions.batches.build_add_request(new)] if new else [],
        run_requests=requests,
        cursor=NewBatchesCursor(compared=0 if is_over else following[-1]).write(),
        skip_reason=None if requests else f"registered {', '.join(new)}" if new else "no new batches",
    )


@dg.sensor(
    job=report_batch,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports batches as complete when their last result arrives, records the progress of open "
    "batches, and requests completion reports.",
)
def response_status(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Observe new results, complete batches, and request report runs."""
    cursor = ResponseStatusCursor.read(context.cursor)
    with database_errors():
        databases = doc_eval.open()
        result = completion.poll(databases, cursor.seen, cursor.told, cursor.observed)
        finish_pauses_and_cancels(databases, result.open)
        throughputs = batch_throughputs(
            databases, [state.batch for state in (*result.changed, *result.completed)]
        )
        requests = requested_runs(context.instance, databases, RunKind.REPORT, result.reports)
    events: list[dg.AssetMaterialization | dg.AssetObservation] = [
        dg.AssetObservation(
            llm_responses.key,
            partition=state.batch.key,
            metadata=_cell_metadata(state, throughputs.get(state.batch.id)),
        )
        for state in result.changed
    ]
    events += [
        dg.AssetMaterialization(
            llm_responses.key,
            partition=state.batch.key,
            metadata={
                **_cell_metadata(state, throughputs.get(state.batch.id)),
                **row_count(state.cells.rows),
            },
        )
        for state in result.completed
    ]
    # A run for a partition that `new_batches` has not added yet would be an error.
    new = partitions.unregistered(context.instance, partitions.of_runs(requests))
    now = ResponseStatusCursor(seen=result.version, observed=result.observed, told=result.reports)
    return dg.SensorResult(
        asset_events=events,
        dynamic_partitions_requests=[partitions.batches.build_add_request(new)] if new else [],
        run_requests=requests,
        # Stored after the events: if a tick is killed before that, the next one sends the events again.
        cursor=now.write(),
        skip_reason=None if events or requests else "nothing changed",
    )


@dg.sensor(
    minimum_interval_seconds=SECONDS_BETWEEN_ASSESSMENTS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Checks that each open batch progresses and that each closed batch has a report, and records "
    "the check when its result changes.",
)
def stalled_work(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Record changed states of open batches and of missing reports.

    Also stores runs that ended before they began, for `doceval status` and `doceval check`, and ends the
    messages of a webhook that was switched off, because the webhook's own sensor is then off, too.
    """
    before = StalledWorkCursor.read(context.cursor)
    with database_errors():
        databases = doc_eval.open()
        notifications.end_if_switched_off(databases)
        assessments = assess_open_batches(databases)
        missing = missing_reports(databases)
        lost = lost_runs(context.instance)
        with databases.doc_eval.begin() as connection:
            replace_lost(connection, lost)
        news = {n: each for n, each in assessments.items() if before.movements.get(n) != each.state}
        # Stalled batches are recounted row by row.
        completion.recount_batches(databases, [n for n, each in news.items() if each.state in STALLED])
    # A batch that was recorded as stalled must not stay so once it is done.
    news |= {
        number: StallAssessment(WorkState.AT_REST, "the batch is no longer open")
        for number, word in before.movements.items()
        if number not in assessments and word in STALLED
    }
    written = [number for number in before.unreported if number not in missing]
    reports: dict[int, PendingRun | None] = {
        **{n: run for n, run in missing.items() if before.unreported.get(n) != run.why},
        **dict.fromkeys(written),
    }
    with database_errors():
        names = defaultdict(lambda: "(archived)", names_of(databases, {*news, *reports}))
    events = [
        *(evaluation_of(assessment, partition_key(n), names[n]) for n, assessment in news.items()),
        *(report_evaluation(run, partition_key(n), names[n]) for n, run in reports.items()),
    ]
    now = StalledWorkCursor(
        movements={number: assessment.state for number, assessment in assessments.items()},
        unreported={number: run.why for number, run in missing.items()},
    )
    return dg.SensorResult(
        asset_events=events,
        cursor=now.write(),
        skip_reason=None if events else "no state has changed",
    )


@dg.sensor(
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sets batches whose staging run was killed, cancelled or lost to FAILED_STAGING.",
)
def staging_failure(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SkipReason:
    """Set batches whose staging was abandoned to FAILED_STAGING.

    A run records its own failures; this sensor finds failures that no run could record. A batch returns to
    SAVED if only some of its assets were materialized, and successfully.
    """
    failed, rested = [], []
    with database_errors():
        databases = doc_eval.open()
        with databases.doc_eval.connect() as connection:
            waiting = staging_batches(connection, locks.SECONDS_ABANDONED)
            at_work = locks.batches_at_work(connection)
        for number in sorted(waiting.keys() - at_work):
            run = _newest_staging(context.instance, number)
            if run is not None and run.status is dg.DagsterRunStatus.SUCCESS:
                if staging.rest_staging(databases, number):
                    rested.append(partition_key(number))
                continue
            reason = _why_abandoned(run, is_old=waiting[number])
            if reason is not None and staging.interrupt_staging(databases, number, reason):
                failed.append(partition_key(number))
    parts = [f"FAILED_STAGING: {', '.join(failed)}"] if failed else []
    parts += [f"SAVED, some assets are missing: {', '.join(rested)}"] if rested else []
    return dg.SkipReason("; ".join(parts) or "no staging has failed")


def _newest_staging(instance: dg.DagsterInstance, batch_id: int) -> dg.DagsterRun | None:
    """The newest run that has begun to stage a batch."""
    filters = dg.RunsFilter(tags={PARTITION: partition_key(batch_id)})
    for record in instance.get_run_records(filters, limit=RUNS_SEARCHED):
        run = record.dagster_run
        if _stages(run) and (record.start_time is not None or run.status is dg.DagsterRunStatus.STARTING):
            return run
    return None


def _stages(run: dg.DagsterRun) -> bool:
    """Whether a run stages a batch, judging by its assets, its job or its steps."""
    if run.asset_selection:
        return not STAGING_ASSETS.isdisjoint(run.asset_selection)
    steps = {dg.AssetKey(step) for step in run.step_keys_to_execute or ()}
    return run.job_name in (stage_batch.name, reprocess_batch.name) or not STAGING_ASSETS.isdisjoint(steps)


def _why_abandoned(run: dg.DagsterRun | None, *, is_old: bool) -> str | None:
    """Why a staging without a working process has failed, by its newest run; None while it may continue.

    The sensor `dead_runs` finds runs that are STARTED although their process is gone.
    """
    if run is None:
        return "the process that staged it is gone: materialize again" if is_old else None
    if run.status in ENDED_WITHOUT_SUCCESS:
        return f"run {run.run_id[:8]} ended as {run.status.value}: see its log, then materialize again"
    return None


def _cell_metadata(
    state: completion.BatchState, throughput: BatchThroughput | None = None
) -> dict[str, float | str]:
    cells = {f"cells_{outcome}": count for outcome, count in state.cells.sample.items()}
    rates = {} if throughput is None else throughput.as_metadata()
    return {
        NAME: shown_name(state.batch.name),
        "cells_expected": state.expected,
        "cells_done": state.cells.done,
        **cells,
        **rates,
    }
