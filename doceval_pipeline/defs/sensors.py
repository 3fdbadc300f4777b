"""Sensors: each looks at what is, decides in the core, and hands the decision to Dagster.

All are level-triggered. A tick that is killed anywhere is made good by the next one: run keys keep
a run from being started twice.
"""

import json
from dataclasses import asdict

import dagster as dg

from doceval_pipeline.batches import completion, staging
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.pace import Pace
from doceval_pipeline.batches.stalling import STALLED, Judgement, Movement, judge_open
from doceval_pipeline.batches.status import batch_paces
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.jobs import report_batch, stage_batch
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.responses import evaluation_of, llm_responses
from doceval_pipeline.doc_eval.batches import (
    batch_id_of,
    list_batches,
    partition_key,
    stage_requests,
    staging_batches,
)

# Dagster's daemon looks at its sensors each 5 s. One that asked for 5 s would be left out at every second or
# third look, which comes some milliseconds too early.
SECONDS_BETWEEN_TICKS = 4
# Stalling is a matter of minutes.
SECONDS_BETWEEN_JUDGEMENTS = 30
# A staging that nobody works on is given up after this long; between two steps of a run it takes
# less than a second until the next one holds the batch's lock.
SECONDS_ABANDONED = 60
# A report run that fails is tried this often again by the daemon.
REPORT_RETRIES = {"dagster/max_retries": "3"}
ENDED_WITHOUT_SUCCESS = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dg.sensor(
    job=stage_batch,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_batches(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Register a partition for each new batch, and start the staging of those that asked for it."""
    with database_errors(), doc_eval.open().doc_eval.connect() as connection:
        keys = [batch.key for batch in list_batches(connection)]
        requested = stage_requests(connection)
    known = set(context.instance.get_dynamic_partitions(partitions.NAME))
    new = [key for key in keys if key not in known]
    return dg.SensorResult(
        dynamic_partitions_requests=[partitions.batches.build_add_request(new)] if new else [],
        run_requests=[
            dg.RunRequest(
                run_key=f"stage-{partition_key(number)}-{word}", partition_key=partition_key(number)
            )
            for number, word in requested.items()
        ],
        skip_reason=None if new or requested else "no new batches",
    )


@dg.sensor(
    job=report_batch,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def response_status(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Observe what processors wrote, complete batches, and request the reports of their results."""
    cursor = json.loads(context.cursor or "{}")
    told = {int(number): digest for number, digest in cursor.get("told", {}).items()}
    with database_errors():
        databases = doc_eval.open()
        found = completion.look(databases, cursor.get("seen", 0), told)
        paces = batch_paces(databases, [seen.batch for seen in (*found.changed, *found.completed)])
        run_keys = completion.report_run_keys(databases, found.reports)
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
            metadata=_cell_metadata(seen, paces.get(seen.batch.id)),
        )
        for seen in found.completed
    ]
    return dg.SensorResult(
        asset_events=events,
        run_requests=[
            dg.RunRequest(
                run_key=run_key,
                partition_key=partition_key(number),
                tags=REPORT_RETRIES,
            )
            for number, run_key in run_keys.items()
        ],
        # Kept after the events are: a tick that is killed before tells of them again.
        cursor=json.dumps({"seen": found.seen, "told": found.reports}),
        skip_reason=None if events or found.reports else "nothing changed",
    )


@dg.sensor(minimum_interval_seconds=SECONDS_BETWEEN_JUDGEMENTS, default_status=dg.DefaultSensorStatus.RUNNING)
def stalled_work(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Judge whether each open batch moves, and record it as a check where the judgement is a new one."""
    with database_errors():
        judgements = {partition_key(n): found for n, found in judge_open(doc_eval.open()).items()}
    before = json.loads(context.cursor or "{}")
    news = {key: found for key, found in judgements.items() if before.get(key) != found.movement}
    with database_errors():
        # What does not move is looked at once more, row by row.
        stalled = [key for key, found in news.items() if found.movement in STALLED]
        completion.recount_batches(doc_eval.open(), map(batch_id_of, stalled))
    # What was recorded as stalled must not stay so once the batch is done.
    news |= {
        key: Judgement(Movement.AT_REST, "the batch is no longer open")
        for key, word in before.items()
        if key not in judgements and word in STALLED
    }
    events = [evaluation_of(judgement, key) for key, judgement in news.items()]
    return dg.SensorResult(
        asset_events=events,
        cursor=json.dumps({key: found.movement for key, found in judgements.items()}),
        skip_reason=None if events else "no judgement has changed",
    )


@dg.sensor(minimum_interval_seconds=SECONDS_BETWEEN_TICKS, default_status=dg.DefaultSensorStatus.RUNNING)
def staging_failure(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SkipReason:
    """Turn batches whose staging run was killed, cancelled or lost to FAILED_STAGING.

    Failures that a run sees itself are recorded by the run; this finds those that it could not.
    """
    failed = []
    with database_errors():
        databases = doc_eval.open()
        with databases.doc_eval.connect() as connection:
            waiting = staging_batches(connection, SECONDS_ABANDONED)
        for number, is_old in waiting.items():
            reason = _why_abandoned(context.instance, databases, number, is_old)
            if reason is not None and staging.fail_staging(databases, number, reason):
                failed.append(partition_key(number))
    return dg.SkipReason(f"FAILED_STAGING: {', '.join(failed)}" if failed else "no staging has failed")


def _why_abandoned(
    instance: dg.DagsterInstance, databases: Databases, batch_id: int, is_old: bool
) -> str | None:
    if staging.is_being_staged(databases, batch_id):
        return None
    filters = dg.RunsFilter(tags={"dagster/partition": partition_key(batch_id)})
    records = instance.get_run_records(filters, limit=1)
    run = records[0].dagster_run if records else None
    if run is not None and run.status in ENDED_WITHOUT_SUCCESS:
        return f"run {run.run_id[:8]} ended as {run.status.value}: see its log, then materialize again"
    if is_old:
        return "the process that staged it is gone: materialize again"
    return None


def _cell_metadata(seen: completion.Seen, pace: Pace | None = None) -> dict[str, float]:
    cells = {f"cells_{name}": count for name, count in asdict(seen.cells).items()}
    rates = {} if pace is None else pace.as_metadata()
    return {"cells_expected": seen.expected, "cells_done": seen.cells.done, **cells, **rates}
