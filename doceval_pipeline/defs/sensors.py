"""Sensors: each looks at what is, decides in the core, and hands the decision to Dagster.

All are level-triggered. A tick that is killed anywhere is made good by the next one: requests for runs and
run keys keep a run from being started twice.
"""

from collections import defaultdict

import dagster as dg

from doceval_pipeline.batches import locks
from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.batches.monitoring import completion
from doceval_pipeline.batches.monitoring.run_requests import missing_reports
from doceval_pipeline.batches.monitoring.stalls import STALLED, Judgement, Movement, judge_open
from doceval_pipeline.batches.monitoring.status import batch_paces
from doceval_pipeline.batches.monitoring.throughput import Pace
from doceval_pipeline.batches.staging import steps as staging
from doceval_pipeline.batches.staging.reprocessing import finish_requests
from doceval_pipeline.batches.webhook import notifications
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.catalog import row_count
from doceval_pipeline.defs.cursors import Judged, Seen
from doceval_pipeline.defs.jobs import report_batch, reprocess_batch, stage_batch
from doceval_pipeline.defs.lost_runs import lost_runs
from doceval_pipeline.defs.naming import NAME, names_of, shown_name
from doceval_pipeline.defs.reporting import report_evaluation
from doceval_pipeline.defs.requests import ENDED_WITHOUT_SUCCESS, PARTITION, ask
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.responses import evaluation_of, llm_responses
from doceval_pipeline.defs.staging import STAGING_ASSETS
from doceval_pipeline.doc_eval.batches import (
    list_batches,
    partition_key,
    staging_batches,
)
from doceval_pipeline.doc_eval.runs.lost import replace_lost
from doceval_pipeline.doc_eval.runs.requests import Kind, Waiting

# Dagster evaluates sensors every 5 s and skips a sensor whose minimum interval has not passed. One of 5 s
# would be skipped every second or third time, which comes some milliseconds too early.
SECONDS_BETWEEN_TICKS = 4
# Stalling is a matter of minutes.
SECONDS_BETWEEN_JUDGEMENTS = 30
# Runs of a batch among which the newest that stages it is looked for.
RUNS_LOOKED_AT = 50


@dg.sensor(
    job=stage_batch,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_batches(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Register a partition for each new batch, and start the staging of those that asked for it."""
    with database_errors():
        databases = doc_eval.open()
        with databases.doc_eval.connect() as connection:
            keys = [batch.key for batch in list_batches(connection)]
        requests = ask(context.instance, databases, Kind.STAGE)
    known = set(context.instance.get_dynamic_partitions(partitions.NAME))
    new = [key for key in keys if key not in known]
    return dg.SensorResult(
        dynamic_partitions_requests=[partitions.batches.build_add_request(new)] if new else [],
        run_requests=requests,
        skip_reason=None if requests else f"registered {', '.join(new)}" if new else "no new batches",
    )


@dg.sensor(
    job=report_batch,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def response_status(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Observe what processors wrote, complete batches, and request the reports of their results."""
    cursor = Seen.read(context.cursor)
    with database_errors():
        databases = doc_eval.open()
        found = completion.look(databases, cursor.seen, cursor.told)
        finish_requests(databases, found.open)
        paces = batch_paces(databases, [seen.batch for seen in (*found.changed, *found.completed)])
        requests = ask(context.instance, databases, Kind.REPORT)
    events: list[dg.AssetMaterialization | dg.AssetObservation] = [
        dg.AssetObservation(
            llm_responses.key,
            partition=seen.batch.key,
            metadata=_cell_metadata(seen, paces.get(seen.batch.id)),
        )
        for seen in found.changed
    ]
    events += [
        dg.AssetMaterialization(
            llm_responses.key,
            partition=seen.batch.key,
            metadata={**_cell_metadata(seen, paces.get(seen.batch.id)), **row_count(seen.cells.rows)},
        )
        for seen in found.completed
    ]
    return dg.SensorResult(
        asset_events=events,
        run_requests=requests,
        # Kept after the events are: a tick that is killed before tells of them again.
        cursor=Seen(seen=found.seen, told=found.reports).write(),
        skip_reason=None if events or requests else "nothing changed",
    )


@dg.sensor(minimum_interval_seconds=SECONDS_BETWEEN_JUDGEMENTS, default_status=dg.DefaultSensorStatus.RUNNING)
def stalled_work(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Judge whether each open batch moves, and record it as a check where the judgement is a new one.

    A closed batch whose report is missing is recorded too. Runs that ended before they began are kept for
    `doceval status` and `doceval check`. Messages of a webhook that was switched off are ended here, because
    its own sensor is off then.
    """
    before = Judged.read(context.cursor)
    with database_errors():
        databases = doc_eval.open()
        notifications.end_if_switched_off(databases)
        judgements = judge_open(databases)
        missing = missing_reports(databases)
        lost = lost_runs(context.instance)
        with databases.doc_eval.begin() as connection:
            replace_lost(connection, lost)
        news = {n: found for n, found in judgements.items() if before.movements.get(n) != found.movement}
        # What does not move is looked at once more, row by row.
        completion.recount_batches(databases, [n for n, found in news.items() if found.movement in STALLED])
    # What was recorded as stalled must not stay so once the batch is done.
    news |= {
        number: Judgement(Movement.AT_REST, "the batch is no longer open")
        for number, word in before.movements.items()
        if number not in judgements and word in STALLED
    }
    written = [number for number in before.unreported if number not in missing]
    reports: dict[int, Waiting | None] = {
        **{n: found for n, found in missing.items() if before.unreported.get(n) != found.why},
        **dict.fromkeys(written),
    }
    with database_errors():
        names = defaultdict(lambda: "(archived)", names_of(databases, {*news, *reports}))
    events = [
        *(evaluation_of(found, partition_key(n), names[n]) for n, found in news.items()),
        *(report_evaluation(found, partition_key(n), names[n]) for n, found in reports.items()),
    ]
    now = Judged(
        movements={number: found.movement for number, found in judgements.items()},
        unreported={number: found.why for number, found in missing.items()},
    )
    return dg.SensorResult(
        asset_events=events,
        cursor=now.write(),
        skip_reason=None if events else "no judgement has changed",
    )


@dg.sensor(minimum_interval_seconds=SECONDS_BETWEEN_TICKS, default_status=dg.DefaultSensorStatus.RUNNING)
def staging_failure(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SkipReason:
    """Turn batches whose staging run was killed, cancelled or lost to FAILED_STAGING.

    Failures that a run sees itself are recorded by the run; this finds those that it could not. A batch of
    which only some assets were materialized, with success, is SAVED again.
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
    said = [f"FAILED_STAGING: {', '.join(failed)}"] if failed else []
    said += [f"SAVED, some of its assets are missing: {', '.join(rested)}"] if rested else []
    return dg.SkipReason("; ".join(said) or "no staging has failed")


def _newest_staging(instance: dg.DagsterInstance, batch_id: int) -> dg.DagsterRun | None:
    """The newest run that has begun to stage a batch; one that never began did nothing."""
    filters = dg.RunsFilter(tags={PARTITION: partition_key(batch_id)})
    for record in instance.get_run_records(filters, limit=RUNS_LOOKED_AT):
        run = record.dagster_run
        if _stages(run) and (record.start_time is not None or run.status is dg.DagsterRunStatus.STARTING):
            return run
    return None


def _stages(run: dg.DagsterRun) -> bool:
    """Whether a run stages, by the assets or the job it was launched for, or else by its steps."""
    if run.asset_selection:
        return not STAGING_ASSETS.isdisjoint(run.asset_selection)
    steps = {dg.AssetKey(step) for step in run.step_keys_to_execute or ()}
    return run.job_name in (stage_batch.name, reprocess_batch.name) or not STAGING_ASSETS.isdisjoint(steps)


def _why_abandoned(run: dg.DagsterRun | None, is_old: bool) -> str | None:
    """Why a staging that nobody works on has failed, by the newest run of it; None while it may go on.

    A run that says it works, and whose process is gone, is found by the sensor `dead_runs`.
    """
    if run is None:
        return "the process that staged it is gone: materialize again" if is_old else None
    if run.status in ENDED_WITHOUT_SUCCESS:
        return f"run {run.run_id[:8]} ended as {run.status.value}: see its log, then materialize again"
    return None


def _cell_metadata(seen: completion.Seen, pace: Pace | None = None) -> dict[str, float | str]:
    cells = {f"cells_{outcome}": count for outcome, count in seen.cells.sample.items()}
    rates = {} if pace is None else pace.as_metadata()
    return {
        NAME: shown_name(seen.batch.name),
        "cells_expected": seen.expected,
        "cells_done": seen.cells.done,
        **cells,
        **rates,
    }
