"""The leaderboard over all completed batches as an asset, and the sensor that refreshes it."""

import re
from itertools import islice
from pathlib import Path

import dagster as dg

from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.batches.results.leaderboard import NOTHING, leaderboard_digest, write_leaderboard
from doceval_pipeline.defs.catalog import CODE_VERSIONS
from doceval_pipeline.defs.materializations import newest_materializations
from doceval_pipeline.defs.reporting import completion_report, report_link
from doceval_pipeline.defs.requests import UNFINISHED, has_failed_for_long
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.steps import NoConfig, open_step
from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.reports.leaderboard import Leaderboard, leaderboard_numbers, render_leaderboard
from doceval_pipeline.reports.leaderboard_plot import draw_leaderboard

# One run covers all batches that complete within this time.
SECONDS_BETWEEN_TICKS = 120
# Most materializations that are searched for a page, newest first.
MOST_SEARCHED = 1_000
RETRIES = {"dagster/max_retries": "3"}


@dg.asset(
    group_name="reporting",
    kinds={"html"},
    deps=[completion_report],
    code_version=CODE_VERSIONS["leaderboard"],
)
def leaderboard(
    context: dg.AssetExecutionContext, config: NoConfig, doc_eval: DocEval
) -> dg.MaterializeResult[None]:
    """Ranks connections under each prompt over all completed batches that have a report.

    Real and simulated results are on separate boards. The link `open` leads to the page.
    """
    with open_step(context, doc_eval) as databases:
        page = write_leaderboard(databases)
    board = page.board
    context.log.info(
        f"{counted(len(board.boards), 'board', 'boards')} over "
        f"{counted(board.batches, 'completed batch', 'completed batches')}; {board.batches_left_out:,} left "
        f"out (open, cancelled or archived); the page is {page.path}"
    )
    return dg.MaterializeResult(
        metadata={
            "open": dg.MetadataValue.url(report_link(page.path.name)),
            "how_to_open": "follow the link while doceval up runs, or: doceval leaderboard --open",
            "leaderboard_shows": f"a board per prompt, with a row per {board.word}: mean score, difference "
            "on the same documents, failures, cost, time and tokens, over "
            f"{counted(board.batches, 'completed batch', 'completed batches')}",
            "leaderboard": dg.MetadataValue.md(render_leaderboard(board)),
            **_plots(board),
            "report": dg.MetadataValue.path(page.path),
            "report_bytes": page.size,
            **leaderboard_numbers(board),
        },
        data_version=dg.DataVersion(board.digest),
    )


def was_written(instance: dg.DagsterInstance, name: str) -> bool:
    """Whether one of the newest materializations wrote a page of the leaderboard with this file name."""
    records = islice(newest_materializations(instance, leaderboard.key), MOST_SEARCHED)
    return any(_page_of(record) == name for record in records)


def _page_of(record: dg.EventLogRecord) -> str | None:
    """The file name of the page that a materialization wrote; None for one of an earlier version."""
    materialization = record.asset_materialization
    value = None if materialization is None else materialization.metadata.get("report")
    return Path(value.value).name if isinstance(value, dg.PathMetadataValue) and value.value else None


def _plots(board: Leaderboard) -> dict[str, dg.MetadataValue]:
    """Plots of real and of simulated results under separate keys; one plot if all are of one kind."""
    real, simulated = draw_leaderboard(board), draw_leaderboard(board, simulated=True)
    if real is None and simulated is None:
        return {"plot": dg.MetadataValue.md("No mean score yet.")}
    plots = {"plot": real or simulated}
    if real is not None:
        plots["plot_simulated"] = simulated
    return {name: dg.MetadataValue.md(plot) for name, plot in plots.items() if plot is not None}


refresh_leaderboard = dg.define_asset_job(
    "refresh_leaderboard",
    selection=dg.AssetSelection.assets(leaderboard),
    description="Writes the leaderboard and its page over all completed batches.",
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
