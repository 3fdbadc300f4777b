"""Recurring evaluations in Dagster: a sensor that asks for the run of each time, and jobs for people."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field
from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.recurring import look_for_arrivals, make_occurrence
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.cursors import Looked
from doceval_pipeline.defs.launchpads import example_values
from doceval_pipeline.defs.naming import NAME, name_of, shown_name
from doceval_pipeline.defs.naming import TAG as BATCH_TAG
from doceval_pipeline.defs.overview import overview, sentence
from doceval_pipeline.defs.requests import FINISHED, UNFINISHED, seconds_since_end
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.staging import batch_config_snapshot
from doceval_pipeline.defs.steps import StepConfig, open_step
from doceval_pipeline.doc_eval.batches import batches_in, partition_key
from doceval_pipeline.doc_eval.lifecycle import Status
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
from doceval_pipeline.reports.untrusted import cut

# A minute is the shortest distance between two times of a schedule.
SECONDS_BETWEEN_TICKS = 14
# Tag of a run: the recurring evaluation and the time, of which there is one record.
TAG = "doceval/occurrence"
# Tag of a run: the name of the recurring evaluation.
NAME_TAG = "doceval/recurring"
# Before a run that failed is asked for again: twice as long each time, to this limit.
SECONDS_TO_RETRY, MOST_SECONDS_TO_RETRY = 15, 3600
# Python cannot convert the first times of all to every time zone.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class OfRecurring(StepConfig):
    """Which recurring evaluation."""

    name: str = Field(description="Name of the recurring evaluation.")


class OneTime(OfRecurring):
    """Which recurring evaluation, and for which of its times."""

    due_at: str | None = Field(
        default=None,
        description="The time, such as 2026-12-01T01:00:00+00:00, and not in the future; now if left out.",
    )


@dg.op
def make_batch(context: dg.OpExecutionContext, config: OneTime, doc_eval: DocEval) -> dict[str, Any]:
    """Make the batch of one time, and ask for its staging, or record why there is none."""
    with open_step(context, doc_eval) as databases:
        with databases.doc_eval.connect() as connection:
            record = find_recurring(connection, config.name)
        made = make_occurrence(databases, record, _moment(config.due_at, record.now))
        if made.batch_id is not None:
            _show_batch(context, databases, record, made, made.batch_id)
    said = f"{shown_name(record.name)}: {sentence(made)}"
    (context.log.error if made.outcome is Outcome.FAILED else context.log.info)(said)
    shown: dict[str, Any] = {"outcome": made.outcome.value, "due_at": made.due_at.isoformat()}
    if made.batch_id is not None:
        shown |= {"batch": made.batch_id, "partition": partition_key(made.batch_id)}
    if made.reason is not None:
        shown["reason"] = made.reason
    context.add_output_metadata(shown)
    return shown


def _show_batch(
    context: dg.OpExecutionContext,
    databases: Databases,
    record: RecurringRecord,
    made: Occurrence,
    batch_id: int,
) -> None:
    """Register the partition of a batch that was made, and link it with the run that made it."""
    key, name = partition_key(batch_id), name_of(databases, batch_id)
    context.instance.add_dynamic_partitions(partitions.NAME, [key])
    context.instance.add_run_tags(context.run_id, {BATCH_TAG: name, NAME_TAG: shown_name(record.name)})
    shown = {
        NAME: name,
        "recurring_evaluation": shown_name(record.name),
        "due_at": made.due_at.isoformat(),
        **{f"files_{kind}": number for kind, number in asdict(made.files).items()},
    }
    context.log_event(dg.AssetObservation(batch_config_snapshot.key, partition=key, metadata=shown))


@dg.op
def pause_occurrences(context: dg.OpExecutionContext, config: OfRecurring, doc_eval: DocEval) -> bool:
    """Make no batch until it is resumed."""
    return _changed(context, config, doc_eval, pause_recurring, "is paused", "was paused already")


@dg.op
def resume_occurrences(context: dg.OpExecutionContext, config: OfRecurring, doc_eval: DocEval) -> bool:
    """Go on with the next time; those that have passed are not made up."""
    return _changed(context, config, doc_eval, resume_recurring, "goes on", "is not paused")


@dg.op
def delete_definition(context: dg.OpExecutionContext, config: OfRecurring, doc_eval: DocEval) -> bool:
    """Forget it; the batches that it made stay."""
    return _changed(context, config, doc_eval, _delete, "is deleted; its batches stay", "was deleted already")


def _delete(connection: Connection, recurring_id: int) -> bool:
    delete_recurring(connection, recurring_id)
    return True


def _changed(
    context: dg.OpExecutionContext,
    config: OfRecurring,
    doc_eval: DocEval,
    act: Callable[[Connection, int], bool],
    done: str,
    not_done: str,
) -> bool:
    """Do something to a recurring evaluation, and show in the run whether it changed anything."""
    with open_step(context, doc_eval) as databases, databases.doc_eval.begin() as connection:
        record = find_recurring(connection, config.name)
        changed = act(connection, record.id)
    said = f"{shown_name(record.name)} {done if changed else not_done}"
    context.log.info(said)
    context.add_output_metadata({"recurring_evaluation": shown_name(record.name), "result": said})
    return changed


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
    """Ask for the run that makes the batch of each time that has come, and look at folders for arrivals.

    A tick that asks for none shows the next and the last occurrence of each recurring evaluation.
    """
    looked = Looked.read(context.cursor)
    with database_errors():
        databases = doc_eval.open()
        with databases.doc_eval.connect() as connection:
            records = list_recurring(connection)
            paused = batches_in(connection, (Status.PAUSED,)) if records else []
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
    return dg.SensorResult(
        run_requests=requests,
        cursor=Looked(looks=looked.looks).write(),
        skip_reason=None if requests else overview(records, paused, list(problems.values())),
    )


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
        tags={TAG: occurrence, NAME_TAG: shown_name(record.name)},
    )


def _runs(instance: dg.DagsterInstance, occurrence: str) -> Iterator[dg.RunRecord]:
    yield from instance.get_run_records(dg.RunsFilter(job_name=run_recurring.name, tags={TAG: occurrence}))


def _moment(given: str | None, now: datetime) -> datetime:
    """The time that a config names, or now.

    Raises
    ------
    ConfigurationError
        It is not a time, or in the future, which would keep the times before it from being made.
    """
    if given is None:
        return now
    try:
        moment = datetime.fromisoformat(given)
        is_known = moment.tzinfo is not None and EARLIEST <= moment.astimezone(UTC) <= now
    except (ValueError, OverflowError):
        is_known = False
    if not is_known:
        raise ConfigurationError(
            f"due_at is {cut(given, 80)!r}, which is not a time with a zone up to now: write one such as "
            "2026-12-01T01:00:00+00:00, or leave it out"
        )
    return moment.astimezone(UTC)
