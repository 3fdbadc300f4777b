"""Schedules, with their times from the settings. What may begin work that costs money is off by default.

Dagster goes on from the last time it stored that it had looked at a schedule, up to an hour ago, and does
not compare crons: after a change it would run the newest tick of the new cron in that hour. Since when a cron
counts is kept among Dagster's own cursors, and ticks before it are skipped.
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
from doceval_pipeline.defs.jobs import stage_batch
from doceval_pipeline.defs.maintenance import audit_databases, retention
from doceval_pipeline.defs.requests import requested_runs
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.doc_eval.batches import list_batches
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
        A cron that cannot be read; names the variable.
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
                "Audit both databases; a failed check says that something is not as it must be.",
                dg.DefaultScheduleStatus.RUNNING,
            ),
        ),
        _schedule(
            "nightly_retention",
            retention,
            "15 3 * * *",
            "Remove old lines of the event log, so that an installation can run for years.",
            dg.DefaultScheduleStatus.RUNNING,
        ),
    ]


def counts_from(kept: str | None, cron: str, loaded_at: float) -> float:
    """Since when a cron counts, in seconds since 1970.

    Parameters
    ----------
    kept
        What was kept at the last tick; None where nothing was.
    loaded_at
        When the process that evaluates the schedule has read its cron.
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
    """A schedule whose cron counts from when it was read first; without `evaluate` it asks for a run."""
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
            return dg.SkipReason(f"{cron!r} counts from {at:%Y-%m-%d %H:%M:%S} UTC; this tick is older")
        return dg.RunRequest() if evaluate is None else evaluate(context, doc_eval)

    return tick


def _valid(
    variable: str, cron: str, schedule: Callable[[str], dg.ScheduleDefinition]
) -> dg.ScheduleDefinition:
    try:
        return schedule(cron)
    except DagsterInvalidDefinitionError:
        raise ConfigurationError(
            f"{variable} is {cron!r}, which is no cron schedule: write five fields such as '0 2 * * *'"
        ) from None


def _stage_saved_batches(cron: str) -> dg.ScheduleDefinition:
    description = "Stage every batch that is saved, not staged yet, and not to be staged later."
    # Work that costs money begins only where somebody switches it on.
    is_off = dg.DefaultScheduleStatus.STOPPED
    return _schedule("stage_saved_batches", stage_batch, cron, description, is_off, _ask_for_saved)


def _ask_for_saved(context: dg.ScheduleEvaluationContext, doc_eval: DocEval) -> list[dg.RunRequest]:
    with database_errors():
        databases = doc_eval.open()
        with databases.doc_eval.begin() as connection:
            request_saved(connection)
            keys = [batch.key for batch in list_batches(connection)]
        context.instance.add_dynamic_partitions(partitions.NAME, keys)
        # What waits for its run already, or is asked for by the sensor new_batches, is left out.
        return requested_runs(context.instance, databases, RunKind.STAGE)
