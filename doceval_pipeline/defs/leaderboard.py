"""The leaderboard over all completed batches as an asset, and the sensor that refreshes it."""

import re

import dagster as dg

from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.batches.results.leaderboard import NOTHING, gather_leaderboard, leaderboard_digest
from doceval_pipeline.defs.catalog import CODE_VERSIONS
from doceval_pipeline.defs.reporting import completion_report
from doceval_pipeline.defs.requests import UNFINISHED, has_failed_for_long
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.steps import NoConfig, open_step
from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.reports.leaderboard import draw_leaderboard, leaderboard_numbers, render_leaderboard

# One run covers all batches that complete within this time.
SECONDS_BETWEEN_TICKS = 120
RETRIES = {"dagster/max_retries": "3"}


@dg.asset(
    group_name="reporting",
    kinds={"postgres"},
    deps=[completion_report],
    code_version=CODE_VERSIONS["leaderboard"],
)
def leaderboard(
    context: dg.AssetExecutionContext, config: NoConfig, doc_eval: DocEval
) -> dg.MaterializeResult[None]:
    """Holds the results of each connection and prompt over all completed batches that have a report."""
    with open_step(context, doc_eval) as databases:
        board = gather_leaderboard(databases)
    context.log.info(
        f"{counted(len(board.rows), 'row', 'rows')}, one per connection and prompt, over "
        f"{counted(board.batches, 'completed batch', 'completed batches')}; {board.batches_left_out:,} left "
        "out (open, cancelled or archived)"
    )
    return dg.MaterializeResult(
        metadata={
            "leaderboard_shows": "a row per connection and prompt: mean score, failures, tokens and time, "
            f"over {counted(board.batches, 'completed batch', 'completed batches')}",
            "leaderboard": dg.MetadataValue.md(render_leaderboard(board)),
            "plot": dg.MetadataValue.md(draw_leaderboard(board)),
            **leaderboard_numbers(board),
        },
        data_version=dg.DataVersion(board.digest),
    )


refresh_leaderboard = dg.define_asset_job(
    "refresh_leaderboard",
    selection=dg.AssetSelection.assets(leaderboard),
    description="Writes the leaderboard over all completed batches.",
)


@dg.sensor(
    job=refresh_leaderboard,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a leaderboard when new reports exist, one run at a time.",
)
def fresh_leaderboard(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Request a leaderboard run if reports were written since the last one.

    Results without a report are not in the leaderboard, so that it never delays a report.
    """
    with database_errors(), doc_eval.open().doc_eval.connect() as connection:
        digest = leaderboard_digest(connection)
    # An edited cursor counts as an empty one.
    requested = context.cursor if re.fullmatch(r"[0-9a-f]{16}", context.cursor or "") else NOTHING
    if digest == requested and not (
        requested != NOTHING
        and has_failed_for_long(context.instance, dg.RunsFilter(job_name=refresh_leaderboard.name))
    ):
        return dg.SensorResult(skip_reason="No new reports since the last leaderboard")
    filters = dg.RunsFilter(job_name=refresh_leaderboard.name, statuses=list(UNFINISHED))
    if context.instance.get_runs_count(filters):
        return dg.SensorResult(skip_reason="A leaderboard run is already in progress")
    # No run key: an earlier state that returns after a restore is requested again.
    return dg.SensorResult(run_requests=[dg.RunRequest(tags=RETRIES)], cursor=digest)
