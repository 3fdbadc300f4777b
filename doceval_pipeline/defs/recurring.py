"""Recurring evaluations in Dagster: a sensor that asks for the run of each time, and jobs for people."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.recurring import look_for_arrivals, make_occurrence
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.cursors import Looked
from doceval_pipeline.defs.launchpads import example_values
from doceval_pipeline.defs.naming import shown_name
from doceval_pipeline.defs.requests import FINISHED, UNFINISHED, seconds_since_end
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.steps import StepConfig, open_step
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.recurring import (
    Occurrence,
    Outcome,
    RecurringRecord,
    delete_recurring,
    find_recurring,
    list_recurring,
    pause_recurring,
    resume_recurring,
)
from doceval_pipeline.errors import ConfigurationError, DocEvalError

# A minute is the shortest distance between two times of a schedule.
SECONDS_BETWEEN_TICKS = 14
# Tag of a run: the recurring evaluation and the time, of which there is one record.
TAG = "doceval/occurrence"
# Before a run that failed is asked for again: twice as long each time, to this limit.
SECONDS_TO_RETRY, MOST_SECONDS_TO_RETRY = 15, 3600


class OfRecurring(StepConfig):
    """Which recurring evaluation."""

    name: str = Field(description="Name of the recurring evaluation.")


class OneTime(OfRecurring):
    """Which recurring evaluation, and for which of its times."""

    due_at: str | None = Field(
        default=None, description="The time, such as 2026-12-01T01:00:00+00:00; now if left out."
    )


@dg.op
def make_batch(context: dg.OpExecutionContext, config: OneTime, doc_eval: DocEval) -> dict[str, Any]:
    """Make the batch of one time, and ask for its staging, or record why there is none."""
    with open_step(context, doc_eval) as databases:
        with databases.doc_eval.connect() as connection:
            record = find_recurring(connection, config.name)
        made = make_occurrence(databases, record, _moment(config.due_at) or record.now)
        if made.batch_id is not None:
            context.instance.add_dynamic_partitions(partitions.NAME, [partition_key(made.batch_id)])
    context.log.info(f"{shown_name(config.name)}: {sentence(made)}")
    told: dict[str, Any] = {"outcome": made.outcome.value, "due_at": made.due_at.isoformat()}
    if made.batch_id is not None:
        told |= {"batch": made.batch_id, "partition": partition_key(made.batch_id)}
    if made.reason is not None:
        told["reason"] = made.reason
    context.add_output_metadata(told)
    return told


@dg.op
def pause_occurrences(context: dg.OpExecutionContext, config: OfRecurring, doc_eval: DocEval) -> bool:
    """Make no batch until it is resumed."""
    with open_step(context, doc_eval) as databases, databases.doc_eval.begin() as connection:
        return pause_recurring(connection, find_recurring(connection, config.name).id)


@dg.op
def resume_occurrences(context: dg.OpExecutionContext, config: OfRecurring, doc_eval: DocEval) -> bool:
    """Go on with the next time; those that have passed are not made up."""
    with open_step(context, doc_eval) as databases, databases.doc_eval.begin() as connection:
        return resume_recurring(connection, find_recurring(connection, config.name).id)


@dg.op
def delete_definition(context: dg.OpExecutionContext, config: OfRecurring, doc_eval: DocEval) -> None:
    """Forget it; the batches that it made stay."""
    with open_step(context, doc_eval) as databases, databases.doc_eval.begin() as connection:
        delete_recurring(connection, find_recurring(connection, config.name).id)


@dg.job(config=example_values("run_recurring"))
def run_recurring() -> None:
    """Make the batch of a recurring evaluation now."""
    make_batch()


@dg.job(name="pause_recurring", config=example_values("pause_recurring"))
def pause_recurring_evaluation() -> None:
    """Make no batch of a recurring evaluation until it is resumed."""
    pause_occurrences()


@dg.job(name="resume_recurring", config=example_values("resume_recurring"))
def resume_recurring_evaluation() -> None:
    """Go on with a paused recurring evaluation."""
    resume_occurrences()


@dg.job(name="delete_recurring", config=example_values("delete_recurring"))
def delete_recurring_evaluation() -> None:
    """Forget a recurring evaluation; its batches stay."""
    delete_definition()


# By name: Dagster makes another sensor of one with the job itself, and warns of what it gives that one.
@dg.sensor(
    job_name=run_recurring.name,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def recurring_evaluations(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Ask for a run for each time that has come; shows the next and the newest time of each evaluation."""
    looked = Looked.read(context.cursor)
    with database_errors():
        databases = doc_eval.open()
        with databases.doc_eval.connect() as connection:
            records = list_recurring(connection)
        times: dict[int, datetime] = {}
        problems: dict[int, str] = {}
        for record in records:
            try:
                due_at = _due_at(databases, record, looked)
            except DocEvalError as error:
                problems[record.id] = f"{shown_name(record.name)}: {error}"
                continue
            if due_at is not None:
                times[record.id] = due_at
    due = [(record, times[record.id]) for record in records if record.id in times]
    asked = [_request(context.instance, record, due_at) for record, due_at in due]
    requests = [request for request in asked if request is not None]
    said = [problems.get(record.id) or _times(record) for record in records]
    return dg.SensorResult(
        run_requests=requests,
        cursor=Looked(looks=looked.looks).write(),
        skip_reason=None if requests else "; ".join(said) or "no recurring evaluation is defined",
    )


def sentence(made: Occurrence) -> str:
    """What became of an occurrence, in a line for people."""
    if made.outcome is Outcome.MADE and made.batch_id is not None:
        return f"{partition_key(made.batch_id)}: {made.files.sentence}"
    if made.outcome is Outcome.SKIPPED:
        return f"no batch: {made.reason} ({made.files.sentence})"
    return f"no batch: {made.reason}"


def _due_at(databases: Databases, record: RecurringRecord, looked: Looked) -> datetime | None:
    """The time whose batch is to be made now; notes in `looked` when folders were looked at."""
    if record.paused_at is not None:
        return None
    if record.recurrence is not None:
        return record.due_at
    now = record.now.timestamp()
    if now - looked.looks.get(record.id, 0) < record.definition.interval:
        return None
    looked.looks[record.id] = now
    return look_for_arrivals(databases, record)


def _request(instance: dg.DagsterInstance, record: RecurringRecord, due_at: datetime) -> dg.RunRequest | None:
    """The run for a time, unless one works on it or has failed just now."""
    occurrence = f"{record.id}-{due_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    earlier = list(_runs(instance, occurrence))
    if any(run.dagster_run.status in UNFINISHED for run in earlier):
        return None
    pause = min(SECONDS_TO_RETRY * 2 ** len(earlier), MOST_SECONDS_TO_RETRY)
    if any(run.dagster_run.status in FINISHED and seconds_since_end(run) < pause for run in earlier):
        return None
    config = {"name": record.name, "due_at": due_at.isoformat()}
    return dg.RunRequest(
        run_key=f"recurring-{occurrence}-{len(earlier)}",
        run_config={"ops": {make_batch.name: {"config": config}}},
        tags={TAG: occurrence},
    )


def _runs(instance: dg.DagsterInstance, occurrence: str) -> Iterator[dg.RunRecord]:
    yield from instance.get_run_records(dg.RunsFilter(job_name=run_recurring.name, tags={TAG: occurrence}))


def _times(record: RecurringRecord) -> str:
    name = shown_name(record.name)
    newest = "none yet" if record.newest_due_at is None else f"{record.newest_due_at:%Y-%m-%d %H:%M} UTC"
    if record.paused_at is not None:
        return f"{name}: paused, newest {newest}"
    if record.next_at is None:
        return f"{name}: on arrival, newest {newest}"
    return f"{name}: next {record.next_at:%Y-%m-%d %H:%M} UTC, newest {newest}"


def _moment(given: str | None) -> datetime | None:
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError(
            f"due_at is {given!r}, which is no time with a zone: write one such as 2026-12-01T01:00:00+00:00"
        )
    return moment
