"""All Dagster definitions of the project: its own and those that users add to `defs`."""

from functools import lru_cache

import dagster as dg

from doceval_pipeline.defs import (
    dead_runs,
    jobs,
    leaderboard,
    maintenance,
    recurring,
    reporting,
    responses,
    result_checks,
    schedules,
    sensors,
    series,
    staging,
    webhook,
)
from doceval_pipeline.defs.assembly import STAGING_ASSETS, STAGING_CHECKS, assembled
from doceval_pipeline.defs.scaffolded import users_definitions
from doceval_pipeline.settings import JSON_LOGS, Settings

ASSETS = (
    *STAGING_ASSETS,
    responses.llm_responses,
    reporting.completion_report,
    leaderboard.leaderboard,
    series.series,
    maintenance.audit,
)
ASSET_CHECKS = (
    *STAGING_CHECKS,
    responses.responses_keep_coming,
    result_checks.result_checks,
)
JOBS = (
    jobs.create_batch,
    staging.stage_batch,
    jobs.report_batch,
    jobs.reprocess_batch,
    jobs.pause_batch,
    jobs.resume_batch,
    jobs.cancel_batch,
    jobs.archive_batch,
    recurring.run_recurring,
    recurring.pause_recurring_evaluation,
    recurring.resume_recurring_evaluation,
    recurring.delete_recurring_evaluation,
    leaderboard.refresh_leaderboard,
    series.refresh_series,
    maintenance.audit_databases,
    maintenance.retention,
)
SENSORS = (
    sensors.new_batches,
    sensors.response_status,
    sensors.stalled_work,
    sensors.staging_failure,
    dead_runs.dead_runs,
    recurring.recurring_evaluations,
    leaderboard.fresh_leaderboard,
    series.fresh_series,
)


@dg.definitions
def defs() -> dg.Definitions:
    """All Dagster definitions: those of this project, and those that users added to `defs`."""
    settings = Settings.from_environment()
    if settings.log_format == JSON_LOGS:
        # Imports a library that nothing else of a run needs.
        from doceval_pipeline.defs import json_logs

        json_logs.install()
    return _definitions(settings)


# Dagster asks twice in each run, which took an eighth of a run's time.
@lru_cache(maxsize=1)
def _definitions(settings: Settings) -> dg.Definitions:
    own = own_definitions(settings)
    return dg.Definitions.merge(own, *users_definitions(own))


def own_definitions(settings: Settings) -> dg.Definitions:
    """The definitions of this project. Cron expressions and the webhook's URL come from the settings."""
    return assembled(
        settings,
        assets=ASSETS,
        asset_checks=ASSET_CHECKS,
        jobs=JOBS,
        sensors=[*SENSORS, webhook.completion_webhook(settings)],
        schedules=schedules.schedules(settings),
    )
