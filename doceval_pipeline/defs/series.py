"""The series of recurring evaluations as an asset, and the sensor that keeps their pages up to date."""

import hashlib
from collections.abc import Container, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.defs.catalog import CODE_VERSIONS
from doceval_pipeline.defs.cursors import SeriesCursor
from doceval_pipeline.defs.launchpads import example_values
from doceval_pipeline.defs.materializations import newest_materializations
from doceval_pipeline.defs.naming import shown_name
from doceval_pipeline.defs.reporting import completion_report, report_link
from doceval_pipeline.defs.requests import ENDED_WITHOUT_SUCCESS, UNFINISHED, has_failed_for_long
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.steps import StepConfig, open_step
from doceval_pipeline.doc_eval.recurring.series import (
    OCCURRENCES_READ,
    SeriesDigest,
    existing_series,
    next_series,
    series_digests,
)
from doceval_pipeline.doc_eval.recurring.stored import list_recurring
from doceval_pipeline.errors import DocEvalError, UnknownRecurring
from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.reports.sanitize import markdown_name
from doceval_pipeline.reports.series import series_markdown, series_numbers

# NumPy and Jinja take half a second to load; only runs that write a page need them.
if TYPE_CHECKING:
    from doceval_pipeline.batches.results.series.reporting import SeriesPage

SECONDS_BETWEEN_TICKS = 60
# Most requests of one tick; later ticks request the rest.
MOST_REQUESTS = 10
# Most series that one tick compares, which takes 6 ms for a series of 1,000 occurrences.
MOST_COMPARED = 20
# Most runs without a page that are considered, newest first.
MOST_FAILURES = 100
# Tag of a run that writes the page of one series: the id of the recurring evaluation.
TAG = "doceval/series"
RETRIES = {"dagster/max_retries": "3"}
# Most materializations that are searched for a page, newest first.
MOST_SEARCHED = 1_000
_LISTED = 50


class SeriesConfig(StepConfig):
    """The series to write."""

    name: str | None = Field(default=None, description="Name of the recurring evaluation. Default: all.")


@dg.asset(
    group_name="reporting",
    kinds={"html"},
    deps=[completion_report],
    code_version=CODE_VERSIONS["series"],
)
def series(
    context: dg.AssetExecutionContext, config: SeriesConfig, doc_eval: DocEval
) -> Iterator[dg.MaterializeResult[None]]:
    """Shows scores, failures, cost and time of recurring evaluations by occurrence, and marks drift."""
    with open_step(context, doc_eval) as databases:
        pages, failures = _write_pages(databases, config.name)
        for page in pages:
            context.log.info(
                f"{shown_name(page.series.name)}: {page.series.verdict}; the page is {page.path}"
            )
        # Pages that were written are served even if others failed.
        if pages or not failures:
            yield dg.MaterializeResult(
                metadata={
                    **(_metadata_of_page(pages[0]) if config.name is not None else _metadata_of_all(pages)),
                    "pages": dg.MetadataValue.json([page.path.name for page in pages]),
                },
                data_version=_version(pages),
            )
        if failures:
            more = f"; {len(failures) - 1:,} more failed" if len(failures) > 1 else ""
            raise dg.Failure(description=f"{failures[0]}{more}", allow_retries=False)


refresh_series = dg.define_asset_job(
    "refresh_series",
    selection=dg.AssetSelection.assets(series),
    config=example_values("refresh_series"),
    description="Writes the series page of one recurring evaluation, or of all.",
)


@dg.sensor(
    job=refresh_series,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests the page of each series that has changed since its page was last requested.",
)
def fresh_series(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SensorResult:
    """Request the page of each series that has changed since the last request.

    A series changes when an occurrence is skipped, fails, is archived or reported, or its time zone changes.
    Each tick compares the next series of a pass over all.
    """
    before = SeriesCursor.read(context.cursor)
    with database_errors(), doc_eval.open().doc_eval.connect() as connection:
        ids = next_series(connection, before.compared, MOST_COMPARED)
        states = {state.id: state for state in series_digests(connection, OCCURRENCES_READ, ids)}
        existing = existing_series(connection, before.written)
    digests = {number: word for number, word in before.written.items() if number in existing}
    failed = _recently_failed(context.instance)
    requests: list[dg.RunRequest] = []
    compared = before.compared
    for compared in ids:
        state = states.get(compared)
        if state is not None and _is_due(context.instance, state, digests.get(compared), failed):
            requests.append(_request(state))
            digests[compared] = state.digest[:16]
        if len(requests) == MOST_REQUESTS:
            break
    return dg.SensorResult(
        run_requests=requests,
        cursor=SeriesCursor(written=digests, compared=compared).write(),
        skip_reason=None if requests else "No series has changed since its page was written",
    )


def was_written(instance: dg.DagsterInstance, name: str) -> bool:
    """Whether one of the newest materializations wrote a page of a series with this file name."""
    records = islice(newest_materializations(instance, series.key), MOST_SEARCHED)
    return any(name in _pages_of(record) for record in records)


def _write_pages(databases: Databases, wanted: str | None) -> tuple[list["SeriesPage"], list[str]]:
    """Write the page of one recurring evaluation, or of all; return pages, and for all also failures."""
    from doceval_pipeline.batches.results.series.reporting import write_series

    if wanted is not None:
        return [write_series(databases, wanted)], []
    with databases.doc_eval.connect() as connection:
        names = [record.name for record in list_recurring(connection)]
    pages, failures = [], []
    for name in names:
        try:
            pages.append(write_series(databases, name))
        except UnknownRecurring:
            # Deleted after it was listed.
            continue
        except DocEvalError as error:
            failures.append(f"{shown_name(name)}: {error}")
    return pages, failures


def _version(pages: Sequence["SeriesPage"]) -> dg.DataVersion:
    digests = "-".join(page.series.digest for page in pages)
    return dg.DataVersion(hashlib.sha256(digests.encode()).hexdigest()[:16] if pages else "none")


def _recently_failed(instance: dg.DagsterInstance) -> set[str]:
    """The ids of series, as text, whose newest runs include one that ended without a page."""
    filters = dg.RunsFilter(job_name=refresh_series.name, statuses=list(ENDED_WITHOUT_SUCCESS))
    return {run.tags.get(TAG, "") for run in instance.get_runs(filters, limit=MOST_FAILURES)}


def _is_due(
    instance: dg.DagsterInstance, state: SeriesDigest, requested: str | None, failed: Container[str]
) -> bool:
    """Whether to request a page: the series changed, or the last run ended without a page.

    Runs of a series are queried only if a request is possible.
    """
    if state.digest[:16] == requested and (
        str(state.id) not in failed
        or not has_failed_for_long(
            instance, dg.RunsFilter(job_name=refresh_series.name, tags={TAG: str(state.id)})
        )
    ):
        return False
    filters = dg.RunsFilter(
        job_name=refresh_series.name, tags={TAG: str(state.id)}, statuses=list(UNFINISHED)
    )
    return not instance.get_runs_count(filters)


def _request(state: SeriesDigest) -> dg.RunRequest:
    # No run key: an earlier state that returns after a restore is requested again.
    return dg.RunRequest(
        run_config={"ops": {series.op.name: {"config": {"name": state.name}}}},
        tags={TAG: str(state.id), **RETRIES},
    )


def _metadata_of_page(page: "SeriesPage") -> dict[str, Any]:
    return {
        "recurring": shown_name(page.series.name),
        "verdict": page.series.verdict,
        "open": dg.MetadataValue.url(report_link(page.path.name)),
        "how_to_open": "follow the link while doceval up runs, or: doceval recurring report NAME",
        "summary_shows": "the newest occurrences: state, mean scores, failures and cost",
        "summary": dg.MetadataValue.md(series_markdown(page.series)),
        "report": dg.MetadataValue.path(page.path),
        "report_bytes": page.size,
        **series_numbers(page.series),
    }


def _metadata_of_all(pages: list["SeriesPage"]) -> dict[str, Any]:
    """A line for each series with the link to its page, and the sums of their figures."""
    rows = ["| recurring evaluation | series | page |", "|---|---|---|"]
    for page in pages[:_LISTED]:
        rows.append(
            f"| {markdown_name(page.series.name)} | {page.series.verdict} | "
            f"[{page.path.name}]({report_link(page.path.name)}) |"
        )
    if len(pages) > _LISTED:
        rows += ["", f"{len(pages) - _LISTED:,} more are not listed."]
    totals: dict[str, int] = {}
    for page in pages:
        for key, value in series_numbers(page.series).items():
            if not key.startswith("newest_"):
                totals[key] = totals.get(key, 0) + int(value)
    return {
        "verdict": f"the pages of {counted(len(pages), 'series', 'series')} are written",
        "summary": dg.MetadataValue.md("\n".join(rows) + "\n"),
        "series": len(pages),
        **totals,
    }


def _pages_of(record: dg.EventLogRecord) -> Iterator[str]:
    materialization = record.asset_materialization
    value = None if materialization is None else materialization.metadata.get("pages")
    listed = None if value is None else value.value
    yield from (
        (Path(page).name for page in listed if isinstance(page, str)) if isinstance(listed, list) else ()
    )
