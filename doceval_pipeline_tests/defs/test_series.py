"""The series in Dagster: an asset without partitions, served pages, and the sensor."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results.series.reporting import SeriesPage, write_series
from doceval_pipeline.cli import cli
from doceval_pipeline.defs.report_pages import report_page
from doceval_pipeline.defs.series import TAG, _version, fresh_series
from doceval_pipeline.domain.insights import ContentChanges
from doceval_pipeline.errors import FileError, UnknownRecurring
from doceval_pipeline.reports.series import Series
from doceval_pipeline_tests.batches.staging.nights import Nights
from doceval_pipeline_tests.defs.running import QUIET, definitions, failure, run, tick


def config(**values: str) -> dict[str, object]:
    return {**QUIET, "ops": {"series": {"config": values}}}


def failing(name: str) -> Callable[[Databases, str], SeriesPage]:
    """`write_series` that fails for one name."""

    def write(databases: Databases, wanted: str) -> SeriesPage:
        if wanted == name:
            raise FileError("its page cannot be written")
        return write_series(databases, wanted)

    return write


def test_the_page_of_one_series_or_of_all_is_written_served_and_measured(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = Nights(databases, tmp_path / "inbox")
    nights.night({"a.txt": "a", "b.txt": "b"})
    other = Nights(databases, tmp_path / "other", name="[x](javascript:1) `other`")
    other.night()
    (event,) = run(
        instance, "refresh_series", None, run_config=config(name="inbox")
    ).get_asset_materialization_events()
    metadata = event.materialization.metadata
    page = Path(str(metadata["report"].value))
    assert metadata["open"].value == f"/reports/{page.name}"
    assert (metadata["occurrences"].value, metadata["occurrences_made"].value) == (1, 1)
    assert metadata["cells"].value == 4
    answer = report_page(instance, "HEAD", page.name)
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(page.stat().st_size))
    planted = page.with_name(f"series-000001-{'ab' * 8}.html")
    planted.write_text("planted")
    assert report_page(instance, "GET", planted.name).status_code == 404
    everything = run(instance, "refresh_series", None, run_config=config())
    (event,) = everything.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert (metadata["series"].value, metadata["occurrences"].value) == (2, 2)
    pages = metadata["pages"].value
    assert [report_page(instance, "HEAD", name).status_code for name in pages] == [200, 200]
    assert "](javascript:" not in str(metadata["summary"].value)
    # A series that was deleted since, or fails, keeps no other page from being written and served.
    other.write("c.txt", "c")
    other.night()
    nights.night({"d.txt": "d"})
    monkeypatch.setattr(
        "doceval_pipeline.batches.results.series.reporting.write_series", failing(nights.record.name)
    )
    broken = run(instance, "refresh_series", None, run_config=config())
    assert failure(broken) == "inbox: its page cannot be written"
    (event,) = broken.get_asset_materialization_events()
    (page_of_other,) = event.materialization.metadata["pages"].value
    assert report_page(instance, "HEAD", str(page_of_other)).status_code == 200
    monkeypatch.undo()
    unknown = run(instance, "refresh_series", None, run_config=config(name="nothing"))
    assert failure(unknown).startswith("recurring evaluation 'nothing' does not exist")


def test_a_change_of_any_series_is_a_new_version_of_the_data() -> None:
    versions = {_version([page(f"{n:016x}") for n in (*range(30), last)]).value for last in (1, 2)}
    assert len(versions) == 2


def page(digest: str) -> SeriesPage:
    written = Series("inbox", "UTC", (), 0, {}, ContentChanges(), digest)
    return SeriesPage(Path("series.html"), written, 1)


def test_each_state_of_a_series_is_requested_once(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = Nights(databases, tmp_path / "inbox")
    assert not tick(fresh_series, instance).run_requests, "no occurrence has come"
    other = Nights(databases, tmp_path / "other", name="other")
    other.night()
    batch = nights.night({"a.txt": "a"}, answer=None)
    first = tick(fresh_series, instance)
    asked = [request.run_config["ops"]["series"]["config"]["name"] for request in first.run_requests]
    assert asked == ["inbox", "other"]
    assert not tick(fresh_series, instance, first.cursor).run_requests
    nights.knowledge(
        "UPDATE llm_responses SET status = 'S', overall_score = 5 WHERE batch_id = :id", id=batch
    )
    assert not tick(fresh_series, instance, first.cursor).run_requests, "it has no report yet"
    nights.report(batch or 0)
    second = tick(fresh_series, instance, first.cursor)
    (request,) = second.run_requests
    assert request.tags[TAG] == str(nights.record.id)
    # One run at a time for each series, and another one long after it ended without a page.
    job = definitions.resolve_job_def("refresh_series")
    under_way = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=request.tags)
    assert not tick(fresh_series, instance, first.cursor).run_requests
    instance.delete_run(under_way.run_id)
    failed = instance.create_run_for_job(job, status=dg.DagsterRunStatus.FAILURE, tags=request.tags)
    assert not tick(fresh_series, instance, second.cursor).run_requests
    later = time.time() + 601
    monkeypatch.setattr("doceval_pipeline.defs.requests.time.time", lambda: later)
    assert len(tick(fresh_series, instance, second.cursor).run_requests) == 1
    instance.delete_run(failed.run_id)
    # A cursor that was edited counts as an empty one.
    assert len(tick(fresh_series, instance, '{"written": {"-1": "x"}}').run_requests) == 2


def test_the_command_writes_the_page_and_prints_its_path_or_all_figures(
    databases: Databases, tmp_path: Path
) -> None:
    nights = Nights(databases, tmp_path / "inbox")
    nights.night({"a.txt": "a"})
    written = CliRunner().invoke(cli, ("recurring", "report", "inbox"))
    assert written.exit_code == 0, written.output
    page = Path("".join(written.output.split()))
    assert page.is_file()
    figures = json.loads(CliRunner().invoke(cli, ("recurring", "report", "inbox", "--json")).output)
    assert (figures["path"], figures["version"], figures["numbers"]["cells"]) == (str(page), 1, 2)
    (occurrence,) = figures["occurrences"]
    assert {column["prompt"] for column in occurrence["columns"]} == {"brevity", "clarity"}
    unknown = CliRunner().invoke(cli, ("recurring", "report", "nothing"))
    assert isinstance(unknown.exception, UnknownRecurring)
