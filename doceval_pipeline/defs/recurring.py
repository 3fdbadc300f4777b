"""Recurring evaluations in Dagster: a sensor that requests a run for each occurrence, and jobs for people."""

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
from doceval_pipeline.batches.staging.recurring import look_for_arrivals, make_occurrence
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
from doceval_pipeline.doc_eval.recurring import (
    Occurrence,
    Outcome,
    RecurringRecord,
    delete_recurring,
    find_recurring,
    list_recurring,
    pause_recurring,
    resume_recurring,
    start_anew,
)
from doceval_pipeline.errors import ConfigurationError, DocEvalError, RecurringError, in_one_line
from doceval_pipeline.reports.sanitize import cut

# A minute is the shortest distance between two times of a schedule.
SECONDS_BETWEEN_TICKS = 14
# Tag of a run: the recurring evaluation and the time, of which there is one record.
TAG = "doceval/occurrence"
# Tag of a run: the name of the recurring evaluation.
NAME_TAG = "doceval/recurring"
# Before a run that failed is asked for again: twice as long each time, to this limit.
SECONDS_TO_RETRY, MOST_SECONDS_TO_RETRY = 15, 3600
# Earlier runs of a time that are looked at: more of them make no longer pause.
MOST_RUNS = 10
# Dagster gives up a tick after 60 s. A look at folders may take so long, and no look begins later in a tick.
SECONDS_FOR_LOOK, SECONDS_FOR_FIRST_LOOKS = 30.0, 15.0
# For a look that ends by itself when its time is over.
SECONDS_OF_GRACE = 1.0
# After a look that took too long.
SECONDS_TO_REST = 600
# Python cannot convert the first times of all to every time zone.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class OfRecurring(StepConfig):
    """Which recurring evaluation."""

    name: str = Field(description="Name of the recurring evaluation.")


class OneTime(OfRecurring):
    """Which recurring evaluation, and for which of its times."""

    due_at: str | None = Field(
        default=None,
        description="Time of the occurrence, not in the future, such as 2026-12-01T01:00:00+00:00. "
        "Default: now.",
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
def pause(context: dg.OpExecutionContext, config: OfRecurring, doc_eval: DocEval) -> bool:
    """Pause it: no batch is made until it is resumed."""
    return _changed(context, config, doc_eval, pause_recurring, "is paused", "was already paused")


@dg.op
def resume(context: dg.OpExecutionContext, config: OfRecurring, doc_eval: DocEval) -> bool:
    """Resume with the next time; those that have passed are not made up."""
    return _changed(context, config, doc_eval, resume_recurring, "is resumed", "was not paused")


@dg.op
def delete(context: dg.OpExecutionContext, config: OfRecurring, doc_eval: DocEval) -> bool:
    """Delete it; the batches that it made stay."""
    done = "is deleted; its batches stay"
    return _changed(context, config, doc_eval, delete_recurring, done, "was already deleted")


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
    """Pause a recurring evaluation: no batch is made until it is resumed."""
    pause()


@dg.job(name="resume_recurring", config=example_values("resume_recurring"))
def resume_recurring_evaluation() -> None:
    """Resume a paused recurring evaluation."""
    resume()


@dg.job(name="delete_recurring", config=example_values("delete_recurring"))
def delete_recurring_evaluation() -> None:
    """Delete a recurring evaluation; its batches stay."""
    delete()


# By name: Dagster makes another sensor of one with the job itself, and warns of what it gives that one.
@dg.sensor(
    job_name=run_recurring.name,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def recurring_evaluations(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Requests a run for each due occurrence and looks for arrivals.

    A tick that asks for none shows the next and the last occurrence of each recurring evaluation.
    """
    with database_errors():
        databases = doc_eval.open()
        with databases.doc_eval.begin() as connection:
            records = list_recurring(connection)
            for record in records:
                if record.was_set_back:
                    start_anew(connection, record.id)
            paused = batches_in(connection, (Status.PAUSED,)) if records else []
    scheduled = [(record, record.due_at) for record in records]
    arrived, next_looks, problems = _look(databases, records, RecurringCursor.read(context.cursor).next_looks)
    due = [(record, due_at) for record, due_at in (*scheduled, *arrived) if due_at is not None]
    requests = _requests(context.instance, due)
    return dg.SensorResult(
        run_requests=requests,
        cursor=RecurringCursor(next_looks=next_looks).write(),
        skip_reason=None if requests else overview(records, paused, problems),
    )


def may_look(not_before: float, now: float) -> bool:
    """Whether folders may be looked at again; a time that is too far off is from a clock that was ahead.

    Half the way to the next tick is not waited for, so that looks come as often as was asked, on average.
    """
    return not now + SECONDS_BETWEEN_TICKS / 2 < not_before <= now + LONGEST_DURATION


def seconds_to_retry(failed: int) -> int:
    """How long a time whose run failed so often waits for the next one."""
    return min(SECONDS_TO_RETRY << min(failed, 20), MOST_SECONDS_TO_RETRY)


def _look(
    databases: Databases, records: Sequence[RecurringRecord], next_looks: Mapping[int, float]
) -> tuple[list[tuple[RecurringRecord, datetime | None]], dict[int, float], list[str]]:
    """Look for arrivals where it is time, those first that have waited longest.

    Gives the times of the batches to make, when each is looked at next, and problems.
    """
    began = time.monotonic()
    problems = [f"{shown_name(record.name)}: {record.problem}" for record in records if record.problem]
    watched = [r for r in records if r.definition.on_arrival and not (r.paused_at or r.was_set_back)]
    times = {record.id: next_looks.get(record.id, 0) for record in watched}
    arrived = []
    for record in sorted(watched, key=lambda record: times[record.id]):
        now = record.now.timestamp()
        if not may_look(times[record.id], now) or time.monotonic() - began > SECONDS_FOR_FIRST_LOOKS:
            continue
        times[record.id] = now + record.definition.interval
        look = _Look(databases, record)
        try:
            arrived.append((record, look.end()))
        except DocEvalError as error:
            problems.append(f"{shown_name(record.name)}: {error}")
        except Exception as error:
            # It must not keep the others from being looked at; the tick's log has where it came from.
            logging.getLogger(__name__).exception(
                "the look at the folders of recurring evaluation %d failed", record.id
            )
            problems.append(f"{shown_name(record.name)}: its look failed: {in_one_line(error)}")
        if look.took_too_long:
            times[record.id] = now + max(SECONDS_TO_REST, record.definition.interval)
    return arrived, times, problems


class _Look(threading.Thread):
    """A look at the folders of one recurring evaluation, which a file system that hangs cannot hold up."""

    def __init__(self, databases: Databases, record: RecurringRecord) -> None:
        super().__init__(name=f"look-{record.id}", daemon=True)
        self._databases, self._record = databases, record
        self._due_at: datetime | None = None
        self._error: Exception | None = None
        self._is_done = False
        self._over_at = 0.0

    def run(self) -> None:
        """Look; what comes of it is kept for `end`."""
        try:
            self._due_at = look_for_arrivals(self._databases, self._record, self._is_over)
        except Exception as error:  # noqa: BLE001 - `end` raises it
            self._error = error
        self._is_done = True

    def end(self) -> datetime | None:
        """Begin, wait for the end, and give the time of the batch to make now.

        Raises
        ------
        DocEvalError
            The look failed, or has not ended in time.
        Exception
            The look failed by a mistake of the program.
        """
        self._over_at = time.monotonic() + SECONDS_FOR_LOOK
        # One that hangs since earlier is not joined by more and more of them.
        if all(thread.name != self.name for thread in threading.enumerate()):
            self.start()
            self.join(SECONDS_FOR_LOOK + SECONDS_OF_GRACE)
        if self._error is not None:
            raise self._error
        if not self._is_done:
            raise RecurringError("its folders did not answer: check their file system")
        return self._due_at

    @property
    def took_too_long(self) -> bool:
        """Whether its time was over."""
        return not self._is_done or self._is_over()

    def _is_over(self) -> bool:
        return time.monotonic() > self._over_at


def _requests(
    instance: dg.DagsterInstance, due: Sequence[tuple[RecurringRecord, datetime]]
) -> list[dg.RunRequest]:
    """The runs for times, without those that one works on or that have failed just now."""
    named = {
        f"{record.id}-{due_at.astimezone(UTC):%Y%m%dT%H%M%SZ}": (record, due_at) for record, due_at in due
    }
    earlier = {occurrence: _earlier_runs(instance, occurrence) for occurrence in named}
    return [
        _request(record, due_at, occurrence, earlier[occurrence])
        for occurrence, (record, due_at) in named.items()
        if _may_ask(earlier[occurrence])
    ]


def _request(
    record: RecurringRecord, due_at: datetime, occurrence: str, earlier: Sequence[dg.RunRecord]
) -> dg.RunRequest:
    config = {"name": record.name, "due_at": due_at.isoformat()}
    return dg.RunRequest(
        # Another one after each run.
        run_key=f"recurring-{occurrence}-{earlier[0].dagster_run.run_id if earlier else 0}",
        run_config={"ops": {make_batch.name: {"config": config}}},
        tags={TAG: occurrence, NAME_TAG: shown_name(record.name)},
    )


def _may_ask(earlier: Sequence[dg.RunRecord]) -> bool:
    if any(run.dagster_run.status in UNFINISHED for run in earlier):
        return False
    pause = seconds_to_retry(len(earlier))
    return not any(run.dagster_run.status in FINISHED and seconds_since_end(run) < pause for run in earlier)


def _earlier_runs(instance: dg.DagsterInstance, occurrence: str) -> Sequence[dg.RunRecord]:
    """The newest runs that there were for a time, newest first."""
    runs = dg.RunsFilter(job_name=run_recurring.name, tags={TAG: occurrence})
    return instance.get_run_records(runs, limit=MOST_RUNS)


def _moment(given: str | None, now: datetime) -> datetime | None:
    """The time that a config names; None where it names none, which means now.

    Raises
    ------
    ConfigurationError
        It is not a time, or in the future, which would keep the times before it from being made.
    """
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
        is_known = moment.tzinfo is not None and EARLIEST <= moment.astimezone(UTC) <= now
    except (ValueError, OverflowError):
        is_known = False
    if not is_known:
        raise ConfigurationError(
            f"due_at is {cut(given, 80)!r} and must be a past time with a time zone: write one such as "
            "2026-12-01T01:00:00+00:00, or omit it"
        )
    return moment.astimezone(UTC)
