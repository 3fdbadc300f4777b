"""Schedules, with cron expressions from the settings. The schedule that may cost money is off by default.

Dagster continues from the last evaluation of a schedule that it stored, up to an hour ago, and does not
notice a new cron expression: after a change it would run the latest tick of the new expression within that
hour. Therefore the time since which a cron expression is in effect is stored as a daemon cursor, and earlier
ticks are skipped.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterInvalidDefinitionError
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.maintenance import audit_databases, retention
from doceval_pipeline.defs.requests import requested_runs
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.staging import stage_batch
from doceval_pipeline.doc_eval.runs.requests import RunKind, request_saved
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings

Job = dg.JobDefinition | UnresolvedAssetJobDefinition
Evaluate = Callable[[dg.ScheduleEvaluationContext, DocEval], list[dg.RunRequest] | dg.RunRequest]


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """All schedules of an installation.

    Raises
    ------
    ConfigurationError
        A cron expression is invalid; the message names the variable.
    """
    return [
        _valid("DOCEVAL_STAGE_CRON", settings.stage_cron, _stage_saved_batches),
        _valid(
            "DOCEVAL_AUDIT_CRON",
            settings.audit_cron,
            lambda cron: _schedule(
                "nightly_audit",
                audit_databases,
                cron,
                "Checks both databases for consistency. A failed check means that an invariant is violated.",
                dg.DefaultScheduleStatus.RUNNING,
            ),
        ),
        _schedule(
            "nightly_retention",
            retention,
            "15 3 * * *",
            "Deletes old entries of the event log, so that the database does not grow without limit.",
            dg.DefaultScheduleStatus.RUNNING,
        ),
    ]


def counts_from(kept: str | None, cron: str, loaded_at: float) -> float:
    """The time since which a cron expression is in effect, in seconds since 1970.

    Parameters
    ----------
    kept
        The cursor stored at the last tick; None if there is none.
    loaded_at
        When the process that evaluates the schedule read the cron expression.
    """
    try:
        known = json.loads(kept or "")
        if known["cron"] == cron:
            return min(float(known["since"]), loaded_at)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return loaded_at


def _schedule(
    name: str,
    job: Job,
    cron: str,
    description: str,
    default_status: dg.DefaultScheduleStatus,
    evaluate: Evaluate | None = None,
) -> dg.ScheduleDefinition:
    """A schedule that skips ticks before its cron expression took effect; by default it requests one run."""
    loaded_at = time.time()

    @dg.schedule(
        name=name,
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        description=description,
        default_status=default_status,
    )
    def tick(
        context: dg.ScheduleEvaluationContext, doc_eval: DocEval
    ) -> list[dg.RunRequest] | dg.RunRequest | dg.SkipReason:
        key, cursors = f"doceval/cron/{name}", context.instance.daemon_cursor_storage
        since = counts_from(cursors.get_cursor_values({key}).get(key), cron, loaded_at)
        cursors.set_cursor_values({key: json.dumps({"cron": cron, "since": since})})
        if context.scheduled_execution_time.timestamp() < since:
            at = datetime.fromtimestamp(since, UTC)
            return dg.SkipReason(
                f"{cron!r} has been in effect since {at:%Y-%m-%d %H:%M:%S} UTC; this tick is older"
            )
        return dg.RunRequest() if evaluate is None else evaluate(context, doc_eval)

    return tick


def _valid(
    variable: str, cron: str, schedule: Callable[[str], dg.ScheduleDefinition]
) -> dg.ScheduleDefinition:
    try:
        return schedule(cron)
    except DagsterInvalidDefinitionError:
        raise ConfigurationError(
            f"{variable}: {cron!r} is not a valid cron expression: write five fields such as '0 2 * * *'"
        ) from None


def _stage_saved_batches(cron: str) -> dg.ScheduleDefinition:
    description = "Stages every saved batch that is not staged yet and is not scheduled to be staged later."
    # Work that costs money starts only after a person turns the schedule on.
    is_off = dg.DefaultScheduleStatus.STOPPED
    return _schedule("stage_saved_batches", stage_batch, cron, description, is_off, _ask_for_saved)


def _ask_for_saved(context: dg.ScheduleEvaluationContext, doc_eval: DocEval) -> list[dg.RunRequest]:
    with database_errors():
        databases = doc_eval.open()
        with databases.doc_eval.begin() as connection:
            request_saved(connection)
        # Batches that already wait for a run, or that the sensor new_batches requests, are skipped.
        requests = requested_runs(context.instance, databases, RunKind.STAGE)
    new = partitions.unregistered(context.instance, partitions.of_runs(requests))
    context.instance.add_dynamic_partitions(partitions.NAME, new)
    return requests
