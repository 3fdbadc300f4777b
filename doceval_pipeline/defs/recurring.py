"""Recurring evaluations in Dagster: a sensor that requests a run for each due occurrence, and jobs."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field
from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.staging.recurring import find_arrivals, make_occurrence
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.cursors import RecurringCursor
from doceval_pipeline.defs.launchpads import example_values
from doceval_pipeline.defs.naming import NAME, name_of, shown_name
from doceval_pipeline.defs.naming import TAG as BATCH_TAG
from doceval_pipeline.defs.recurring_text import overview, sentence
from doceval_pipeline.defs.requests import FINISHED, UNFINISHED, seconds_since_end
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.staging import batch_config_snapshot
from doceval_pipeline.defs.steps import StepConfig, open_step
from doceval_pipeline.doc_eval.batches import batches_in, partition_key
from doceval_pipeline.doc_eval.definitions.schema import LONGEST_DURATION
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.doc_eval.recurring.stored import (
    delete_recurring,
    find_recurring,
    list_recurring,
    pause_recurring,
    restart_from_now,
    resume_recurring,
)
from doceval_pipeline.domain.recurring import Occurrence, OccurrenceOutcome
from doceval_pipeline.errors import ConfigurationError, DocEvalError, RecurringError, in_one_line
from doceval_pipeline.reports.sanitize import cut

# Two occurrences of a schedule are at least a minute apart.
SECONDS_BETWEEN_TICKS = 14
# Tag of a run: the id of the recurring evaluation and the time, which identify an occurrence.
TAG = "doceval/occurrence"
# Tag of a run: the name of the recurring evaluation.
NAME_TAG = "doceval/recurring"
# Pause before a failed run is requested again: doubled each time, up to this limit.
SECONDS_TO_RETRY, MOST_SECONDS_TO_RETRY = 15, 3600
# Most earlier runs of an occurrence that are considered; more would not make the pause longer.
MOST_RUNS = 10
# Dagster ends a tick after 60 s. The first limits a poll; after the second, a tick starts no further poll.
SECONDS_FOR_POLL, SECONDS_TO_START_POLLS = 30.0, 15.0
# Additional time for a poll to stop on its own.
SECONDS_OF_GRACE = 1.0
# Pause after a poll that took too long.
SECONDS_TO_REST = 600
# Python cannot convert the earliest times to every time zone.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class RecurringConfig(StepConfig):
    """The recurring evaluation to act on."""

    name: str = Field(description="Name of the recurring evaluation.")


class OccurrenceConfig(RecurringConfig):
    """The recurring evaluation to create a batch for, and the time of the occurrence."""

    due_at: str | None = Field(
        default=None,
        description="Time of the occurrence, not in the future, such as 2026-12-01T01:00:00+00:00. "
        "Default: now.",
    )


@dg.op
def make_batch(context: dg.OpExecutionContext, config: OccurrenceConfig, doc_eval: DocEval) -> dict[str, Any]:
    """Creates the batch of one occurrence and requests its staging, or records why there is none."""
    with open_step(context, doc_eval) as databases:
        with databases.doc_eval.connect() as connection:
            record = find_recurring(connection, config.name)
        made = make_occurrence(databases, record, _moment(config.due_at, record.now))
        if made.batch_id is not None:
            _show_batch(context, databases, record, made, made.batch_id)
    log = context.log.error if made.outcome is OccurrenceOutcome.FAILED else context.log.info
    log(f"{shown_name(record.name)}: {sentence(made)}")
    facts: dict[str, Any] = {"outcome": made.outcome.value, "due_at": made.due_at.isoformat()}
    if made.batch_id is not None:
        facts |= {"batch": made.batch_id, "partition": partition_key(made.batch_id)}
    if made.reason is not None:
        facts["reason"] = made.reason
    context.add_output_metadata(facts)
    return facts


def _show_batch(
    context: dg.OpExecutionContext,
    databases: Databases,
    record: RecurringRecord,
    made: Occurrence,
    batch_id: int,
) -> None:
    """Register the partition of a new batch, and link it to the run that created it."""
    key, name = partition_key(batch_id), name_of(databases, batch_id)
    context.instance.add_dynamic_partitions(partitions.NAME, [key])
    context.instance.add_run_tags(context.run_id, {BATCH_TAG: name, NAME_TAG: shown_name(record.name)})
    metadata = {
        NAME: name,
        "recurring_evaluation": shown_name(record.name),
        "due_at": made.due_at.isoformat(),
        **{f"files_{kind}": number for kind, number in asdict(made.files).items()},
    }
    context.log_event(dg.AssetObservation(batch_config_snapshot.key, partition=key, metadata=metadata))


@dg.op
def pause(context: dg.OpExecutionContext, config: RecurringConfig, doc_eval: DocEval) -> bool:
    """Pauses a recurring evaluation: no batches are created until it is resumed."""
    return _apply(context, config, doc_eval, pause_recurring, "is paused", "was already paused")


@dg.op
def resume(context: dg.OpExecutionContext, config: RecurringConfig, doc_eval: DocEval) -> bool:
    """Resumes a paused recurring evaluation. Missed occurrences are not made up."""
    return _apply(context, config, doc_eval, resume_recurring, "is resumed", "was not paused")


@dg.op
def delete(context: dg.OpExecutionContext, config: RecurringConfig, doc_eval: DocEval) -> bool:
    """Deletes a recurring evaluation and its history. The batches that it created are kept."""
    done = "is deleted; its batches are kept"
    return _apply(context, config, doc_eval, delete_recurring, done, "was already deleted")


def _apply(
    context: dg.OpExecutionContext,
    config: RecurringConfig,
    doc_eval: DocEval,
    change: Callable[[Connection, int], bool],
    done: str,
    not_done: str,
) -> bool:
    """Apply a change to a recurring evaluation, and show in the run whether it had an effect."""
    with open_step(context, doc_eval) as databases, databases.doc_eval.begin() as connection:
        record = find_recurring(connection, config.name)
        changed = change(connection, record.id)
    result = f"{shown_name(record.name)} {done if changed else not_done}"
    context.log.info(result)
    context.add_output_metadata({"recurring_evaluation": shown_name(record.name), "result": result})
    return changed


@dg.job(config=example_values("run_recurring"))
def run_recurring() -> None:
    """Creates a batch of a recurring evaluation now, outside its schedule."""
    make_batch()


@dg.job(name="pause_recurring", config=example_values("pause_recurring"))
def pause_recurring_evaluation() -> None:
    """Pauses a recurring evaluation: no batches are created until it is resumed."""
    pause()


@dg.job(name="resume_recurring", config=example_values("resume_recurring"))
def resume_recurring_evaluation() -> None:
    """Resumes a paused recurring evaluation. Missed occurrences are not made up."""
    resume()


@dg.job(name="delete_recurring", config=example_values("delete_recurring"))
def delete_recurring_evaluation() -> None:
    """Deletes a recurring evaluation and its history. The batches that it created are kept."""
    delete()


# By name: given the job itself, Dagster copies the sensor and warns about the arguments of the copy.
@dg.sensor(
    job_name=run_recurring.name,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a run for each due occurrence of a recurring evaluation, and polls folders for new "
    "documents.",
)
def recurring_evaluations(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Request a run for each due occurrence, and poll folders for arrivals.

    A tick without requests shows the next and the last occurrence of each recurring evaluation.
    """
    with database_errors():
        databases = doc_eval.open()
        with databases.doc_eval.begin() as connection:
            records = list_recurring(connection)
            for record in records:
                if record.was_set_back:
                    restart_from_now(connection, record.id)
            paused = batches_in(connection, (Status.PAUSED,)) if records else []
    scheduled = [(record, record.due_at) for record in records]
    arrived, next_polls, problems = _poll(databases, records, RecurringCursor.read(context.cursor).next_looks)
    due = [(record, due_at) for record, due_at in (*scheduled, *arrived) if due_at is not None]
    requests = _requests(context.instance, due)
    return dg.SensorResult(
        run_requests=requests,
        cursor=RecurringCursor(next_looks=next_polls).write(),
        skip_reason=None if requests else overview(records, paused, problems),
    )


def may_poll(not_before: float, now: float) -> bool:
    """Whether folders may be polled; `not_before` is ignored if only a clock that was ahead explains it.

    A poll may start up to half a tick early, so that polls are as frequent on average as configured.
    """
    return not now + SECONDS_BETWEEN_TICKS / 2 < not_before <= now + LONGEST_DURATION


def seconds_to_retry(failed: int) -> int:
    """Seconds to wait after this many failed runs of an occurrence before another run is requested."""
    return min(SECONDS_TO_RETRY << min(failed, 20), MOST_SECONDS_TO_RETRY)


def _poll(
    databases: Databases, records: Sequence[RecurringRecord], next_polls: Mapping[int, float]
) -> tuple[list[tuple[RecurringRecord, datetime | None]], dict[int, float], list[str]]:
    """Poll the folders that are due for arrivals, the longest overdue first.

    Returns
    -------
    tuple
        Due times of new batches, the next poll of each recurring evaluation, and problems.
    """
    began = time.monotonic()
    problems = [f"{shown_name(record.name)}: {record.problem}" for record in records if record.problem]
    watched = [r for r in records if r.definition.on_arrival and not (r.paused_at or r.was_set_back)]
    times = {record.id: next_polls.get(record.id, 0) for record in watched}
    arrived = []
    for record in sorted(watched, key=lambda record: times[record.id]):
        now = record.now.timestamp()
        if not may_poll(times[record.id], now) or time.monotonic() - began > SECONDS_TO_START_POLLS:
            continue
        times[record.id] = now + record.definition.interval
        poll = _PollThread(databases, record)
        try:
            arrived.append((record, poll.result()))
        except DocEvalError as error:
            problems.append(f"{shown_name(record.name)}: {error}")
        except Exception as error:
            # It must not prevent the other polls; the tick's log has the traceback.
            logging.getLogger(__name__).exception(
                "polling the folders of recurring evaluation %d failed", record.id
            )
            problems.append(f"{shown_name(record.name)}: polling its folders failed: {in_one_line(error)}")
        if poll.took_too_long:
            times[record.id] = now + max(SECONDS_TO_REST, record.definition.interval)
    return arrived, times, problems


class _PollThread(threading.Thread):
    """Polls the folders of one recurring evaluation; abandoned if the file system hangs."""

    def __init__(self, databases: Databases, record: RecurringRecord) -> None:
        super().__init__(name=f"poll-{record.id}", daemon=True)
        self._databases, self._record = databases, record
        self._due_at: datetime | None = None
        self._error: Exception | None = None
        self._is_done = False
        self._deadline = 0.0

    def run(self) -> None:
        """Poll; `result` returns the time or raises the error."""
        try:
            self._due_at = find_arrivals(self._databases, self._record, self._is_overdue)
        except Exception as error:  # noqa: BLE001 - `result` raises it
            self._error = error
        self._is_done = True

    def result(self) -> datetime | None:
        """Start the thread, wait for it, and return the due time of the new batch, if any.

        Raises
        ------
        DocEvalError
            The poll failed, or has not ended in time.
        Exception
            The poll failed because of a bug.
        """
        self._deadline = time.monotonic() + SECONDS_FOR_POLL
        # While an earlier one hangs, no further thread is started.
        if all(thread.name != self.name for thread in threading.enumerate()):
            self.start()
            self.join(SECONDS_FOR_POLL + SECONDS_OF_GRACE)
        if self._error is not None:
            raise self._error
        if not self._is_done:
            raise RecurringError("its folders did not answer: check their file system")
        return self._due_at

    @property
    def took_too_long(self) -> bool:
        """Whether it did not end before its deadline."""
        return not self._is_done or self._is_overdue()

    def _is_overdue(self) -> bool:
        return time.monotonic() > self._deadline


def _requests(
    instance: dg.DagsterInstance, due: Sequence[tuple[RecurringRecord, datetime]]
) -> list[dg.RunRequest]:
    """The runs to request: none for an occurrence whose run is in progress or failed recently."""
    named = {
        f"{record.id}-{due_at.astimezone(UTC):%Y%m%dT%H%M%SZ}": (record, due_at) for record, due_at in due
    }
    earlier = {occurrence: _earlier_runs(instance, occurrence) for occurrence in named}
    return [
        _request(record, due_at, occurrence, earlier[occurrence])
        for occurrence, (record, due_at) in named.items()
        if _may_request(earlier[occurrence])
    ]


def _request(
    record: RecurringRecord, due_at: datetime, occurrence: str, earlier: Sequence[dg.RunRecord]
) -> dg.RunRequest:
    config = {"name": record.name, "due_at": due_at.isoformat()}
    return dg.RunRequest(
        # Different after each run.
        run_key=f"recurring-{occurrence}-{earlier[0].dagster_run.run_id if earlier else 0}",
        run_config={"ops": {make_batch.name: {"config": config}}},
        tags={TAG: occurrence, NAME_TAG: shown_name(record.name)},
    )


def _may_request(earlier: Sequence[dg.RunRecord]) -> bool:
    if any(run.dagster_run.status in UNFINISHED for run in earlier):
        return False
    pause = seconds_to_retry(len(earlier))
    return not any(run.dagster_run.status in FINISHED and seconds_since_end(run) < pause for run in earlier)


def _earlier_runs(instance: dg.DagsterInstance, occurrence: str) -> Sequence[dg.RunRecord]:
    """The newest runs of an occurrence, newest first."""
    runs = dg.RunsFilter(job_name=run_recurring.name, tags={TAG: occurrence})
    return instance.get_run_records(runs, limit=MOST_RUNS)


def _moment(given: str | None, now: datetime) -> datetime | None:
    """The given time; None if none is given, which means now.

    Raises
    ------
    ConfigurationError
        It is not a time with a time zone, or is in the future, which would block all earlier occurrences.
    """
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
        is_valid = moment.tzinfo is not None and EARLIEST <= moment.astimezone(UTC) <= now
    except (ValueError, OverflowError):
        is_valid = False
    if not is_valid:
        raise ConfigurationError(
            f"due_at {cut(given, 80)!r} is not a past time with a time zone: write one such as "
            "2026-12-01T01:00:00+00:00, or omit it"
        )
    return moment.astimezone(UTC)
