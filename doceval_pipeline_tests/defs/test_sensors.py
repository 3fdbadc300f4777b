"""Sensors and schedules: what a tick asks for, given what the databases hold."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import recount_batches
from doceval_pipeline.batches.staging import reprocessing, steps
from doceval_pipeline.defs import sensors
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.schedules import schedules
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.errors import ConfigurationError, DatabaseError
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample, evaluation_of
from doceval_pipeline_tests.defs.running import QUIET, definitions, run, tick

BatchOf = Callable[..., Sample]


def test_new_batches_registers_partitions_and_starts_what_was_asked_for(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    located = evaluation_of([{"name": "a", "folders": [str(tmp_path)]}])
    number = apply_evaluation(databases.doc_eval, located, stage=True).numbers["a"]
    first, second = tick(sensors.new_batches, instance), tick(sensors.new_batches, instance)
    assert first.dynamic_partitions_requests[0].partition_keys == [f"batch-{number:06d}"]
    assert [r.partition_key for r in first.run_requests] == [f"batch-{number:06d}"]
    assert not second.run_requests, "the run has half a minute to appear"


def test_response_status_observes_what_changed_and_asks_for_one_report(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=2)
    batch.stage()
    first = tick(sensors.response_status, instance)
    assert [type(event).__name__ for event in first.asset_events] == ["AssetObservation"]
    assert not tick(sensors.response_status, instance, first.cursor).asset_events
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    done = tick(sensors.response_status, instance, first.cursor)
    assert [type(event).__name__ for event in done.asset_events] == ["AssetMaterialization"]
    again = tick(sensors.response_status, instance, done.cursor)
    assert (len(done.run_requests), again.run_requests) == (1, [])
    assert run(instance, "report_batch", batch.key).success
    assert not tick(sensors.response_status, instance, again.cursor).run_requests


def test_response_status_holds_what_a_processor_had_locked_when_its_batch_was_paused(
    batch_of: BatchOf, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reprocessing, "SECONDS_FOR_LOCKED_ROWS", 0.1)
    batch = batch_of(documents=1, connections=1, prompts=2)
    batch.stage()
    with batch.databases.knowledge.begin() as processor:
        processor.exec_driver_sql("SELECT FROM llm_responses LIMIT 1 FOR UPDATE")
        with pytest.raises(DatabaseError, match="1 of its rows are held"):
            reprocessing.pause(batch.databases, batch.id)
        tick(sensors.response_status, instance)
        assert batch.knowledge("SELECT status FROM llm_responses ORDER BY 1") == [("PAUSED",), ("QUEUED",)]
    tick(sensors.response_status, instance)
    assert batch.knowledge("SELECT status FROM llm_responses") == [("PAUSED",), ("PAUSED",)]


def test_a_batch_that_comes_back_to_an_earlier_result_gets_its_report_again(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=2)
    batch.stage()
    keys, cursor = [], None
    # A file that goes and comes back sets its rows aside and back, which leaves them as they were.
    for score in (None, 50, None):
        batch.plant("UPDATE llm_responses SET status = 'S', overall_score = :score", score=score)
        recount_batches(batch.databases, [batch.id])
        asked = tick(sensors.response_status, instance, cursor)
        keys += [request.run_key for request in asked.run_requests]
        cursor = asked.cursor
        assert run(instance, "report_batch", batch.key).success
    assert len(set(keys)) == 3
    (_, first, *_), (_, last, *_) = (keys[0].rsplit("-", 3), keys[2].rsplit("-", 3))
    assert first == last, "the same result"


def test_a_completion_that_a_killed_tick_found_is_recorded_once_by_the_next_one(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=2)
    batch.stage()
    first = tick(sensors.response_status, instance)
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    tick(sensors.response_status, instance, first.cursor)
    # Killed before Dagster stored anything, so that the next tick begins with the cursor before it.
    again = tick(sensors.response_status, instance, first.cursor)
    (event,) = again.asset_events
    assert isinstance(event, dg.AssetMaterialization)
    assert (event.partition, event.metadata["cells_done"].value) == (batch.key, 2)
    after = tick(sensors.response_status, instance, again.cursor)
    assert not after.asset_events


def test_staging_failure_finds_a_staging_without_a_process(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.doc_eval("UPDATE batches SET status = 'STAGING', status_changed_at = now() WHERE id = :id")
    tick(sensors.staging_failure, instance)
    assert batch.status() == "STAGING", "it may be between two steps"
    batch.doc_eval("UPDATE batches SET status_changed_at = now() - interval '61 s' WHERE id = :id")
    assert batch.key in str(tick(sensors.staging_failure, instance).skip_message)
    assert batch.status() == "FAILED_STAGING"
    assert "materialize again" in batch.doc_eval("SELECT failure_reason FROM batches WHERE id = :id")[0][0]


def test_staging_failure_ignores_a_staging_with_a_process(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=1)
    steps.seal_batch(batch.databases, batch.id)
    steps.assign_documents(batch.databases, batch.id)
    batch.doc_eval("UPDATE batches SET status_changed_at = now() - interval '1 day' WHERE id = :id")

    def look_meanwhile(done: int, *_: int) -> None:
        if not done:
            tick(sensors.staging_failure, instance)
            assert batch.status() == "STAGING"

    steps.store_documents(batch.databases, batch.id, look_meanwhile)


def test_a_batch_with_a_time_is_staged_once_that_is_past(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    located = evaluation_of([{"name": "a", "folders": [str(tmp_path)], "stage_after": "2999-01-01T00:00Z"}])
    number = apply_evaluation(databases.doc_eval, located).numbers["a"]
    assert not tick(sensors.new_batches, instance).run_requests
    located = evaluation_of([{"name": "a", "folders": [str(tmp_path)], "stage_after": "2026-01-01T00:00Z"}])
    apply_evaluation(databases.doc_eval, located)
    (request,) = tick(sensors.new_batches, instance).run_requests
    assert (request.partition_key, request.run_key) == (
        f"batch-{number:06d}",
        f"stage-batch-{number:06d}-20260101T000000000000-1",
    )


def test_the_observation_tells_rate_and_time_left_and_the_completion_the_rate(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=10, connections=2, prompts=2)
    batch.stage()
    first = tick(sensors.response_status, instance)
    batch.doc_eval("UPDATE batch_progress SET observed_at = observed_at - interval '10 minutes'")
    batch.knowledge(
        "UPDATE llm_responses SET status = 'S' WHERE id IN (SELECT id FROM llm_responses LIMIT 20)"
    )
    second = tick(sensors.response_status, instance, first.cursor)
    metadata = {name: value.value for name, value in second.asset_events[0].metadata.items()}
    assert metadata["cells_done"] == 20
    assert metadata["cells_per_hour"] == pytest.approx(120, rel=0.01)
    assert metadata["seconds_left_expected"] == pytest.approx(600, rel=0.01)
    assert metadata["seconds_left_low"] < 600 < metadata["seconds_left_high"]
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    done = tick(sensors.response_status, instance, second.cursor)
    (event,) = done.asset_events
    assert isinstance(event, dg.AssetMaterialization)
    assert event.metadata["cells_per_hour"].value == pytest.approx(240, rel=0.01)


def test_a_stalled_batch_is_recorded_as_a_failed_check_once_and_as_passed_when_it_is_over(
    batch_of: BatchOf, instance: dg.DagsterInstance
) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    tick(sensors.response_status, instance)
    moving = tick(sensors.stalled_work, instance)
    assert [(e.partition, e.passed) for e in moving.asset_events] == [(batch.key, True)]
    batch.doc_eval("UPDATE batch_progress SET observed_at = observed_at - interval '10 minutes'")
    stalled = tick(sensors.stalled_work, instance, moving.cursor)
    (event,) = stalled.asset_events
    assert (event.check_name, event.passed) == ("responses_keep_coming", False)
    assert "check whether a processor is running" in event.description
    assert not tick(sensors.stalled_work, instance, stalled.cursor).asset_events
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    tick(sensors.response_status, instance)
    over = tick(sensors.stalled_work, instance, stalled.cursor)
    assert [(e.partition, e.passed) for e in over.asset_events] == [(batch.key, True)]
    assert not tick(sensors.stalled_work, instance, over.cursor).asset_events


def test_the_check_can_be_asked_for_a_single_batch(batch_of: BatchOf, instance: dg.DagsterInstance) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    instance.add_dynamic_partitions("batches", [batch.key])
    check = dg.AssetCheckKey(dg.AssetKey("llm_responses"), "responses_keep_coming")
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_check_selection={check})
    done = job.execute_in_process(instance=instance, partition_key=batch.key, run_config=QUIET)
    (found,) = done.get_asset_check_evaluations()
    assert (found.passed, found.description, found.partition) == (True, "sample: moving", batch.key)


def stage_saved(instance: dg.DagsterInstance) -> list[str]:
    """The partitions that the schedule `stage_saved_batches` asks for."""
    (schedule,) = (s for s in schedules(Settings(Path("/"))) if s.name == "stage_saved_batches")
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime.now(UTC))
    return sorted(str(request.partition_key) for request in schedule(context, doc_eval=DocEval()))


def test_the_schedule_asks_for_every_saved_batch_but_those_of_later(
    databases: Databases, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    later = {"name": "later", "folders": [str(tmp_path)], "stage_after": "2999-01-01T00:00Z"}
    located = evaluation_of([*({"name": name, "folders": [str(tmp_path)]} for name in "ab"), later])
    numbers = apply_evaluation(databases.doc_eval, located).numbers
    assert stage_saved(instance) == sorted(f"batch-{numbers[name]:06d}" for name in "ab")


def test_the_times_of_the_schedules_are_settings_and_a_wrong_one_is_named() -> None:
    found = {s.name: s.cron_schedule for s in schedules(Settings(Path("/"), stage_cron="5 4 * * 1"))}
    assert found["stage_saved_batches"] == "5 4 * * 1"
    for field, variable in (("stage_cron", "DOCEVAL_STAGE_CRON"), ("audit_cron", "DOCEVAL_AUDIT_CRON")):
        with pytest.raises(ConfigurationError, match=f"{variable}: 'at noon' is not a valid cron"):
            schedules(Settings(Path("/"), **{field: "at noon"}))
