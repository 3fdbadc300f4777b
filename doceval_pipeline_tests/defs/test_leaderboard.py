"""The leaderboard in Dagster: an asset without partitions, refreshed after reports, one run at a time."""

import time
from collections.abc import Callable

import dagster as dg
import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.defs.leaderboard import fresh_leaderboard
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.defs.running import definitions, run, tick

BatchOf = Callable[..., Sample]


def reported(batch: Sample) -> Sample:
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 50 WHERE batch_id = :id")
    poll(batch.databases)
    write_report(batch.databases, batch.id)
    return batch


def test_the_leaderboard_is_a_table_a_plot_and_stable_numbers(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    reported(batch_of(documents=2))
    result = run(instance, "refresh_leaderboard", None)
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert (metadata["batches"].value, metadata["cells_scored"].value) == (1, 8)
    assert "| 1 | model-0 |" in str(metadata["leaderboard"].value)
    assert len(str(metadata["plot"].value)) < 1_000


def test_many_reports_request_one_run_and_the_same_reports_none(
    databases: Databases, batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    assert not tick(fresh_leaderboard, instance).run_requests, "there is nothing to show"
    for name in "abc":
        reported(batch_of(documents=1, name=name))
    first = tick(fresh_leaderboard, instance)
    assert [request.run_key for request in first.run_requests] == [None]
    assert not tick(fresh_leaderboard, instance, first.cursor).run_requests
    reported(batch_of(documents=1, name="d"))
    assert len(tick(fresh_leaderboard, instance, first.cursor).run_requests) == 1


def test_no_run_is_requested_while_one_is_in_progress(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    reported(batch_of(documents=1))
    job = definitions.resolve_job_def("refresh_leaderboard")
    under_way = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    meanwhile = tick(fresh_leaderboard, instance)
    assert (meanwhile.run_requests, meanwhile.cursor) == ([], None)
    instance.delete_run(under_way.run_id)
    assert len(tick(fresh_leaderboard, instance).run_requests) == 1


def test_a_leaderboard_whose_run_was_cancelled_is_requested_again_after_ten_minutes(
    batch_of: BatchOf, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported(batch_of(documents=1))
    first = tick(fresh_leaderboard, instance)
    job = definitions.resolve_job_def("refresh_leaderboard")
    run_of_it = instance.create_run_for_job(job, status=dg.DagsterRunStatus.CANCELED)
    assert not tick(fresh_leaderboard, instance, first.cursor).run_requests, "a person has cancelled it"
    later = time.time() + 601
    monkeypatch.setattr("doceval_pipeline.defs.requests.time.time", lambda: later)
    assert len(tick(fresh_leaderboard, instance, first.cursor).run_requests) == 1
    instance.delete_run(run_of_it.run_id)
