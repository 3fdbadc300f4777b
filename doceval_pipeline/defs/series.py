"""The series of recurring evaluations as an asset, and the sensor that keeps their pages fresh."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.defs.catalog import CODE_VERSIONS
from doceval_pipeline.defs.cursors import SeriesCursor
from doceval_pipeline.defs.launchpads import example_values
from doceval_pipeline.defs.naming import shown_name
from doceval_pipeline.defs.reporting import completion_report, report_link
from doceval_pipeline.defs.requests import ENDED_WITHOUT_SUCCESS, UNFINISHED, has_failed_for_long
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.steps import StepConfig, open_step
from doceval_pipeline.doc_eval.recurring import list_recurring
from doceval_pipeline.doc_eval.series import OCCURRENCES_READ, SeriesState, series_states
from doceval_pipeline.errors import DocEvalError, UnknownRecurring
from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.reports.sanitize import markdown_name
from doceval_pipeline.reports.series import series_markdown, series_numbers

# NumPy and Jinja take half a second to load, which only runs that write a page need.
if TYPE_CHECKING:
    from doceval_pipeline.batches.results.series.reporting import WrittenSeries

SECONDS_BETWEEN_LOOKS = 60
# In one tick; the others follow in the next ones.
MOST_ASKED_FOR = 10
# So many of the newest runs that ended without a page are considered.
MOST_FAILURES = 100
# Of a run that writes the page of one series: which recurring evaluation.
TAG = "doceval/series"
RETRIES = {"dagster/max_retries": "3"}
# Materializations in which a page is looked for, the newest first.
MOST_LOOKED_THROUGH = 1_000
_LISTED = 50


class OfSeries(StepConfig):
    """Which series."""

    name: str | None = Field(default=None, description="Name of the recurring evaluation; all if left out.")


@dg.asset(
    group_name="reporting",
    kinds={"html"},
    deps=[completion_report],
    code_version=CODE_VERSIONS["series"],
)
def series(
    context: dg.AssetExecutionContext, config: OfSeries, doc_eval: DocEval
) -> Iterator[dg.MaterializeResult[None]]:
    """Scores, failures, cost and time of recurring evaluations by occurrence, with drift marked."""
    with open_step(context, doc_eval) as databases:
        written, failures = _write(databases, config.name)
        for one in written:
            context.log.info(f"{shown_name(one.series.name)}: {one.series.verdict}; the page is {one.path}")
        # Pages that are written are served, whatever became of the others.
        if written or not failures:
            yield dg.MaterializeResult(
                metadata={
                    **(_of_one(written[0]) if config.name is not None else _of_all(written)),
                    "pages": dg.MetadataValue.json([one.path.name for one in written]),
                },
                data_version=_version(written),
            )
        if failures:
            more = f"; {len(failures) - 1:,} more failed" if len(failures) > 1 else ""
            raise dg.Failure(description=f"{failures[0]}{more}", allow_retries=False)


refresh_series = dg.define_asset_job(
    "refresh_series",
    selection=dg.AssetSelection.assets(series),
    config=example_values("refresh_series"),
    description="Write the page of a recurring evaluation's series anew, or of all of them.",
)


@dg.sensor(
    job=refresh_series,
    minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def fresh_series(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Requests the page of each series that changed since its page was last requested.

    An occurrence that was skipped, failed, archived or reported changes a series; so does a new time zone.
    """
    with database_errors(), doc_eval.open().doc_eval.connect() as connection:
        states = series_states(connection, OCCURRENCES_READ)
    asked = SeriesCursor.read(context.cursor).written
    written = {state.id: asked[state.id] for state in states if state.id in asked}
    failed = _failed_lately(context.instance)
    requests: list[dg.RunRequest] = []
    for state in states:
        is_other = state.digest[:16] != asked.get(state.id)
        # Dagster is asked about single series only where there may be something to do.
        if not is_other and str(state.id) not in failed:
            continue
        if len(requests) < MOST_ASKED_FOR and _is_due(context.instance, state, is_other):
            requests.append(_request(state))
            written[state.id] = state.digest[:16]
    return dg.SensorResult(
        run_requests=requests,
        cursor=SeriesCursor(written=written).write(),
        skip_reason=None if requests else "No series has changed since its page was written",
    )


def was_written(instance: dg.DagsterInstance, name: str) -> bool:
    """Whether this installation materialized a page of a series under this file's name, among the newest."""
    cursor: str | None = None
    for _ in range(MOST_LOOKED_THROUGH // 100):
        page = instance.fetch_materializations(series.key, limit=100, cursor=cursor)
        if any(name in _pages_of(record) for record in page.records):
            return True
        if not page.has_more:
            return False
        cursor = page.cursor
    return False


def _write(databases: Databases, wanted: str | None) -> tuple[list["WrittenSeries"], list[str]]:
    """The page of one recurring evaluation, or of all; of all, why some could not be written."""
    from doceval_pipeline.batches.results.series.reporting import write_series

    if wanted is not None:
        return [write_series(databases, wanted)], []
    with databases.doc_eval.connect() as connection:
        names = [record.name for record in list_recurring(connection)]
    written, failures = [], []
    for name in names:
        try:
            written.append(write_series(databases, name))
        except UnknownRecurring:
            # Deleted since it was listed.
            continue
        except DocEvalError as error:
            failures.append(f"{shown_name(name)}: {error}")
    return written, failures


def _version(written: Sequence["WrittenSeries"]) -> dg.DataVersion:
    digests = "-".join(one.series.digest for one in written)
    return dg.DataVersion(hashlib.sha256(digests.encode()).hexdigest()[:16] if written else "none")


def _failed_lately(instance: dg.DagsterInstance) -> set[str]:
    """The series of the newest runs that ended without a page, by the value of their tag."""
    filters = dg.RunsFilter(job_name=refresh_series.name, statuses=list(ENDED_WITHOUT_SUCCESS))
    return {run.tags.get(TAG, "") for run in instance.get_runs(filters, limit=MOST_FAILURES)}


def _is_due(instance: dg.DagsterInstance, state: SeriesState, is_other: bool) -> bool:
    """Whether to request a page: of another state, or because the last run ended without one."""
    if not is_other and not has_failed_for_long(
        instance, dg.RunsFilter(job_name=refresh_series.name, tags={TAG: str(state.id)})
    ):
        return False
    filters = dg.RunsFilter(
        job_name=refresh_series.name, tags={TAG: str(state.id)}, statuses=list(UNFINISHED)
    )
    return not instance.get_runs_count(filters)


def _request(state: SeriesState) -> dg.RunRequest:
    # No run key: what was the case once, and is so again after a restore, is asked for again.
    return dg.RunRequest(
        run_config={"ops": {series.op.name: {"config": {"name": state.name}}}},
        tags={TAG: str(state.id), **RETRIES},
    )


def _of_one(written: "WrittenSeries") -> dict[str, Any]:
    return {
        "recurring": shown_name(written.series.name),
        "verdict": written.series.verdict,
        "open": dg.MetadataValue.url(report_link(written.path.name)),
        "how_to_open": "follow the link, where doceval up runs this page; or: doceval recurring report NAME",
        "summary_shows": "the newest occurrences: what became of them, mean scores, failures and cost",
        "summary": dg.MetadataValue.md(series_markdown(written.series)),
        "report": dg.MetadataValue.path(written.path),
        "report_bytes": written.size,
        **series_numbers(written.series),
    }


def _of_all(written: list["WrittenSeries"]) -> dict[str, Any]:
    """A line for each series, with the link to its page; figures of all together."""
    rows = ["| recurring evaluation | series | page |", "|---|---|---|"]
    for one in written[:_LISTED]:
        rows.append(
            f"| {markdown_name(one.series.name)} | {one.series.verdict} | "
            f"[{one.path.name}]({report_link(one.path.name)}) |"
        )
    if len(written) > _LISTED:
        rows += ["", f"{len(written) - _LISTED:,} more are not listed."]
    totals: dict[str, int] = {}
    for one in written:
        for key, value in series_numbers(one.series).items():
            if not key.startswith("newest_"):
                totals[key] = totals.get(key, 0) + int(value)
    return {
        "verdict": f"the pages of {counted(len(written), 'series', 'series')} are written",
        "summary": dg.MetadataValue.md("\n".join(rows) + "\n"),
        "series": len(written),
        **totals,
    }


def _pages_of(record: dg.EventLogRecord) -> Iterator[str]:
    found = record.asset_materialization
    value = None if found is None else found.metadata.get("pages")
    listed = None if value is None else value.value
    yield from (
        (Path(page).name for page in listed if isinstance(page, str)) if isinstance(listed, list) else ()
    )
