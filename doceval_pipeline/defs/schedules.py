"""Schedules, with their times from the settings. What may begin work that costs money is off by default."""

from collections.abc import Callable

import dagster as dg
from dagster import DagsterInvalidDefinitionError

from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.jobs import stage_batch
from doceval_pipeline.defs.requests import ask
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.upkeep import audit_databases, retention
from doceval_pipeline.doc_eval.batches import list_batches
from doceval_pipeline.doc_eval.run_requests import Kind, request_saved
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings

ON = dg.DefaultScheduleStatus.RUNNING


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
            lambda cron: dg.ScheduleDefinition(
                name="nightly_audit",
                job=audit_databases,
                cron_schedule=cron,
                default_status=ON,
                description="Audit both databases; a failed check says that something is not as it must be.",
            ),
        ),
        dg.ScheduleDefinition(
            name="nightly_retention",
            job=retention,
            cron_schedule="15 3 * * *",
            default_status=ON,
            description="Remove old lines of the event log, so that an installation can run for years.",
        ),
    ]


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
    @dg.schedule(cron_schedule=cron, job=stage_batch, execution_timezone="UTC")
    def stage_saved_batches(context: dg.ScheduleEvaluationContext, doc_eval: DocEval) -> list[dg.RunRequest]:
        """Stage every batch that is saved, not staged yet, and not to be staged later."""
        with database_errors():
            databases = doc_eval.open()
            with databases.doc_eval.begin() as connection:
                request_saved(connection)
                keys = [batch.key for batch in list_batches(connection)]
            context.instance.add_dynamic_partitions(partitions.NAME, keys)
            # What waits for its run already, or is asked for by the sensor new_batches, is left out.
            return ask(context.instance, databases, Kind.STAGE)

    return stage_saved_batches
